"""Pods that come, go and change while the service runs."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from service.contract.pods import PodEntry
from service.simulation.faults import Fault
from service.simulation.scheduler import Speed
from tests.service.conftest import Serve
from tests.service.engines import StartEngine, chat
from tests.service.gateway.routed import CHAT, Before, Route, Routed
from tests.service.gateway.scripted import answer, scripted
from tests.waiting import PATIENCE, until


async def json_of(routed: Routed, path: str) -> Any:
    async with routed.client.get(path) as response:
        return await response.json()


async def test_all_of_a_removed_pod_goes_with_it(route: Route) -> None:
    routed = await route(2, ranks=2)
    gone, kept = routed.engines
    for engine in routed.engines:
        engine.faults.add(Fault("status", status=429))
        engine.faults.add(Fault("die", times=2))
    for number in range(12):
        with suppress(aiohttp.ClientPayloadError):
            async with routed.client.post(CHAT, json=chat(f"Hello {number}", stream=True)) as response:
                await response.read()
    for engine in routed.engines:
        engine.faults.clear()
        await routed.until_applied(engine)
    async with routed.client.delete(f"/pods/{gone.pod}") as response:
        assert response.status == 200
    for engine in (gone, kept):  # the events of the first reach nobody
        async with aiohttp.ClientSession() as session, session.post(engine.url + CHAT, json=chat("Direct " * 50)) as _:
            pass
    await routed.until_applied(kept)
    addresses = {rank.publisher.address for rank in gone.ranks}
    assert not addresses & {one["address"] for one in (await json_of(routed, "/endpoints"))["endpoints"]}
    pods = await json_of(routed, "/pods")
    assert {pod["name"] for pod in pods["fleet"]} == {pod["pod"] for pod in pods["pods"]} == {kept.pod}
    metrics = await (await routed.client.get("/metrics")).text()
    assert gone.pod not in metrics
    assert not any(address in metrics for address in addresses)
    assert kept.pod in metrics


async def test_the_connections_of_a_removed_pod_close_and_its_requests_in_flight_end_as_they_would(
    before: Before,
) -> None:
    goes_on = asyncio.Event()
    ask = chat("Hello", stream=True)

    async def respond(received: Any, writer: asyncio.StreamWriter) -> None:
        if json.loads(received.body).get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10\r\n\r\nfirst")
            await goes_on.wait()
            writer.write(b" last")
        else:
            await answer(b"{}")(received, writer)

    routed, (engine,) = await before(respond)
    async with asyncio.TaskGroup() as group:  # connections that are kept
        for _ in range(4):
            group.create_task(_ask(routed))
    async with routed.client.post(CHAT, json=ask) as response:
        assert await response.content.readexactly(5) == b"first"
        async with routed.client.delete(f"/pods/{engine.pod}") as removed:
            assert removed.status == 200
        await until(lambda: engine.connections == 1)
        goes_on.set()
        assert await response.read() == b" last"
    await until(lambda: engine.connections == 0)
    async with routed.client.post(CHAT, json=ask) as response:
        assert (response.status, "X-Kvcache-Echo" in response.headers) == (503, False), "a fleet stays one"
    async with routed.client.get("/ready") as response:
        assert response.status == 503


async def _ask(routed: Routed) -> None:
    async with routed.client.post(CHAT, json=chat("Hello")) as response:
        assert response.status == 200


async def test_a_draining_pod_gets_no_request_ends_those_in_flight_and_can_come_back(route: Route) -> None:
    routed = await route(1, speed=Speed(decode_seconds=0.001))
    (engine,) = routed.engines
    async with routed.client.post(CHAT, json=chat("Hello", stream=True, ignore_eos=True, max_tokens=300)) as running:
        await running.content.readuntil(b"\n\n")
        async with routed.client.patch(f"/pods/{engine.pod}", json={"draining": True}) as response:
            assert (response.status, (await response.json())["in_flight"]) == (200, 1)
        async with routed.client.post(CHAT, json=chat("Hello")) as response:
            assert (response.status, "Retry-After" in response.headers) == (503, True)
            assert "draining" in (await response.json())["error"]["message"]
        assert (await running.read()).endswith(b"data: [DONE]\n\n")
    assert (await routed.pods())[engine.pod]["in_flight"] == 0
    async with routed.client.patch(f"/pods/{engine.pod}", json={"draining": False}) as response:
        assert response.status == 200
    await _ask(routed)


async def test_a_pod_of_more_weight_gets_more_requests(before: Before) -> None:
    waiting = asyncio.Event()

    async def respond(received: Any, writer: asyncio.StreamWriter) -> None:
        await waiting.wait()
        await answer(b"{}")(received, writer)

    routed, (first, second) = await before(respond, 2)
    async with routed.client.patch(f"/pods/{first.pod}", json={"weight": 3}) as response:
        assert (await response.json())["weight"] == 3
    asking = []
    for number in range(12):
        asking.append(asyncio.create_task(_ask(routed)))
        await until(lambda: len(first.requests) + len(second.requests) == number + 1)  # noqa: B023 - called at once
    assert len(first.requests) > 2 * len(second.requests)
    waiting.set()
    await asyncio.gather(*asking)


@pytest.mark.parametrize(
    ("body", "param"),
    [({"weight": 0}, "weight"), ({"weight": "2"}, "weight"), ({"draining": 1}, "draining"), ({"colour": 1}, "colour")],
)
async def test_a_wrong_change_of_a_pod_is_refused_and_changes_nothing(
    before: Before, body: dict[str, Any], param: str
) -> None:
    routed, (engine,) = await before(answer(b"{}"))
    async with routed.client.patch(f"/pods/{engine.pod}", json={"draining": True, **body}) as response:
        assert response.status == 400
        assert param in (await response.json())["error"]["message"]
    pod = (await routed.pods())[engine.pod]
    assert (pod["draining"], pod["weight"]) == ("draining" not in body and False, 1.0)
    async with routed.client.patch("/pods/none", json={"draining": True}) as response:
        assert response.status == 404


async def test_a_pod_that_is_added_is_asked_for_all_it_can_tell_and_its_cache_counts_at_once(
    serve: Serve, start_engine: StartEngine
) -> None:
    async with scripted(answer(b"{}")) as other:
        routed = Routed(await serve(pods=(PodEntry(other.url, other.pod),), health_interval=0.2), [])
        engine = await start_engine(ranks=2)
        routed.engines = [engine]
        async with routed.client.post("/pods", json={"url": f"{engine.url}/v1", "name": "added"}) as response:
            assert response.status == 201
        await routed.until_healthy(2)
        text = "The harbour office answers questions about the ferry. " * 20
        async with aiohttp.ClientSession() as session, session.post(engine.url + CHAT, json=chat(text)) as direct:
            assert direct.status == 200
        await routed.until_applied(engine)
        async with routed.client.post(CHAT, json=chat(text)) as response:
            assert response.headers["X-Kvcache-Pod"] == "added"
            assert int(response.headers["X-Kvcache-Predicted-Tokens"]) > 100
        pods = await routed.pods()
        assert (pods["added"]["ranks"], pods["added"]["models"]) == (2, ["builtin/demo"])


async def test_a_model_that_an_engine_loads_later_is_found_when_a_request_names_it(before: Before) -> None:
    routed, (engine,) = await before(answer(b"{}"))

    async def status() -> int:
        async with routed.client.post(CHAT, json={"model": "lora", "messages": []}) as response:
            return response.status

    assert await status() == 404
    engine.models.append("lora")
    async with asyncio.timeout(PATIENCE):
        while await status() == 404:
            pass
    assert await status() == 200
    assert [card["id"] for card in (await json_of(routed, "/v1/models"))["data"]] == ["builtin/demo", "lora"]
    assert (await routed.pods())[engine.pod]["healthy"]
