"""GET /requests: requests as they are routed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, TCPConnector

from service.api.event_stream import MAX_STREAMS, MAX_STREAMS_PER_CLIENT
from service.contract.api_keys import parse_api_keys
from service.contract.settings import Settings
from service.routing.request_listeners import Listener
from service.server import listening
from tests.service.conftest import Serve, url_of
from tests.service.engines import chat, engine_starter
from tests.service.gateway.routed import CHAT, Before, Route
from tests.service.gateway.scripted import Received, answer
from tests.service.workers.running import environment_of, running
from tests.waiting import PATIENCE

TEXT = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 8


@asynccontextmanager
async def told(client: ClientSession) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """What a listener is told, as it comes."""
    async with client.get("/requests") as stream:
        assert stream.status == 200, await stream.text()
        assert stream.content_type == "text/event-stream"
        assert (await stream.content.readline()).startswith(b":")  # it listens

        async def events() -> AsyncIterator[dict[str, Any]]:
            async with asyncio.timeout(PATIENCE):
                async for line in stream.content:
                    if line.startswith(b"data: "):
                        yield json.loads(line.removeprefix(b"data: "))

        yield events()


async def ask(client: ClientSession, **fields: Any) -> str:
    async with client.post(CHAT, json=chat(TEXT, max_tokens=2, **fields)) as response:
        await response.read()
        return response.headers.get("X-Kvcache-Pod", "")


async def test_a_stream_is_told_as_it_is_routed_at_its_first_token_and_at_its_end(route: Route) -> None:
    routed = await route(2)
    async with told(routed.client) as events:
        pod = await ask(routed.client, stream=True, stream_options={"include_usage": True})
        courses = [await anext(events) for _ in range(3)]
        assert [one["state"] for one in courses] == ["routed", "first_token", "ended"]
        assert {(one["id"], one["pod"], one["model"], one["is_select"]) for one in courses} == {
            (courses[0]["id"], pod, "builtin/demo", False)
        }
        first, last = courses[0], courses[2]
        assert first["tokens"] > 100
        assert (first["predicted_tokens"], first["first_token_seconds"], first["status"]) == (0, None, None)
        assert 0 < last["first_token_seconds"] <= last["seconds"]
        assert (last["status"], last["cached_tokens"], last["problem"]) == (200, 0, None)
        await routed.until_applied(next(engine for engine in routed.engines if engine.pod == pod))
        assert await ask(routed.client) == pod
        again = [await anext(events) for _ in range(2)]
        assert [one["state"] for one in again] == ["routed", "ended"], "an answer that is no stream has no first token"
        assert again[1]["predicted_tokens"] == again[1]["cached_tokens"] > 100
        assert TEXT[:11] not in json.dumps([courses, again])


async def test_a_response_that_is_created_has_its_first_token_later(before: Before) -> None:
    created, token = (b'event: %b\ndata: {"sequence_number":0}\n\n' % name for name in (b"response.created", b"token"))
    has_prompt, is_computed = asyncio.Event(), asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + created)
        has_prompt.set()
        await is_computed.wait()
        writer.write(token)
        await writer.drain()
        writer.close()

    routed, _ = await before(respond)
    async with told(routed.client) as events:
        asking = asyncio.ensure_future(routed.client.post("/v1/responses", json={"input": TEXT, "stream": True}))
        assert (await anext(events))["state"] == "routed"
        await has_prompt.wait()
        following = asyncio.ensure_future(anext(events))
        for _ in range(3):
            await routed.pods()
        assert not following.done()
        is_computed.set()
        assert (await following)["state"] == "first_token"
        async with await asking as response:
            assert await response.read() == created + token


async def test_attempts_that_fail_and_requests_that_no_pod_can_take_are_told(before: Before) -> None:
    routed, engines = await before(answer(b'{"error": {}}', status=b"503 Service Unavailable"))
    async with told(routed.client) as events:
        await ask(routed.client)
        assert [(one["state"], one["status"]) for one in (await anext(events), await anext(events))] == [
            ("routed", None),
            ("ended", 503),
        ]
        await routed.client.patch(f"/pods/{engines[0].pod}", json={"draining": True})
        await ask(routed.client)
        refused = await anext(events)
        assert (refused["state"], refused["pod"]) == ("refused", None)
        assert "draining" in refused["problem"]


async def test_a_request_that_a_client_takes_to_its_pod_itself_is_told_if_it_is_reserved(route: Route) -> None:
    routed = await route(1)
    async with told(routed.client) as events:
        for reserve in (False, True):
            async with routed.client.post("/select", json={**chat(TEXT), "reserve": reserve}) as response:
                name = (await response.json())["reservation"]
        await (await routed.client.post(f"/reservations/{name}/first_token")).read()
        await (await routed.client.delete(f"/reservations/{name}")).read()
        courses = [await anext(events) for _ in range(3)]
        assert [(one["state"], one["is_select"]) for one in courses] == [
            ("routed", True),
            ("first_token", True),
            ("ended", True),
        ]


async def test_nothing_is_noted_when_nobody_listens(route: Route) -> None:
    routed = await route(1)
    async with told(routed.client) as events:
        await ask(routed.client)
        first = await anext(events)
    async with told(routed.client) as events:
        await ask(routed.client)
        assert (await anext(events))["state"] == "routed"
    assert first["state"] == "routed"


async def test_a_listener_that_does_not_read_loses_the_oldest_and_is_told_how_many() -> None:
    listener = Listener()
    for number in range(1200):
        listener.put(b"%d" % number)
    waiting, dropped = await listener.read()
    assert (dropped, waiting[0], waiting[-1]) == (200, b"200", b"1199")


KEY = "sk-reading-0123456789"


@asynccontextmanager
async def coming_from(client: ClientSession, last_bytes: range) -> AsyncIterator[list[ClientSession]]:
    """Further clients of the same service, each with an address of its own."""
    async with AsyncExitStack() as stack:
        connectors = [TCPConnector(local_addr=(f"127.0.0.{number}", 0)) for number in last_bytes]
        yield [await stack.enter_async_context(ClientSession(url_of(client), connector=one)) for one in connectors]


async def listen(stack: AsyncExitStack, client: ClientSession, **headers: str) -> None:
    """Opens a stream, which ends with the stack."""
    stream = await stack.enter_async_context(client.get("/requests", headers=headers))
    assert stream.status == 200, await stream.text()


async def assert_refused(client: ClientSession, because: str, **headers: str) -> None:
    for accept, path in (("*/*", "/requests"), ("text/event-stream", "/pods")):
        async with client.get(path, headers={"Accept": accept, **headers}) as refused:
            assert refused.status == 429
            error = (await refused.json())["error"]
            assert error["code"] == "too_many_streams"
            assert because in error["message"]


async def test_an_address_has_half_of_the_streams_at_most(serve: Serve) -> None:
    client = await serve()
    async with coming_from(client, range(2, 3)) as (other,), AsyncExitStack() as streams:
        for _ in range(MAX_STREAMS_PER_CLIENT):
            await listen(streams, client)
        await assert_refused(client, f"127.0.0.1 has {MAX_STREAMS_PER_CLIENT} streams")
        assert (await client.get("/pods")).status == 200
        await listen(streams, other)


async def test_a_key_has_half_of_the_streams_at_most_from_wherever_it_comes(serve: Serve) -> None:
    client = await serve(api_keys=parse_api_keys(f"reader:read:{KEY},other:read:{KEY}-2"))
    async with coming_from(client, range(2, 5)) as clients, AsyncExitStack() as streams:
        for number in range(MAX_STREAMS_PER_CLIENT):
            await listen(streams, clients[number % len(clients)], Authorization=f"Bearer {KEY}")
        await assert_refused(clients[0], "the API key 'reader' has", Authorization=f"Bearer {KEY}")
        await listen(streams, clients[0], Authorization=f"Bearer {KEY}-2")


async def test_more_listeners_than_the_limit_are_refused_until_one_leaves(serve: Serve) -> None:
    client = await serve()
    addresses = range(2, 2 + MAX_STREAMS // MAX_STREAMS_PER_CLIENT)
    async with coming_from(client, addresses) as clients, AsyncExitStack() as streams:
        for one in MAX_STREAMS_PER_CLIENT * clients:
            await listen(streams, one)
        await assert_refused(client, f"this process sends {MAX_STREAMS} streams")
        assert (await client.get("/pods")).status == 200
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.get("/requests") as again:
                if again.status == 200:
                    break
            await asyncio.sleep(0.01)


async def test_a_stop_does_not_wait_for_listeners(settings: Settings) -> None:
    async with ClientSession() as client, asyncio.timeout(PATIENCE):
        async with listening(replace(settings, drain_timeout=100 * PATIENCE)) as port:
            url = f"http://127.0.0.1:{port}"
            streams = [
                await client.get(f"{url}/requests"),
                await client.get(f"{url}/pods", headers={"Accept": "text/event-stream"}),
            ]
            assert [stream.status for stream in streams] == [200, 200]
        for stream in streams:
            with suppress(ClientError):
                await stream.read()


async def test_a_listener_needs_a_key_that_may_read(serve: Serve) -> None:
    client = await serve(api_keys=parse_api_keys("reader:read:sk-reading-0123456789"))
    assert (await client.get("/requests")).status == 401
    async with client.get("/requests", headers={"Authorization": "Bearer sk-reading-0123456789"}) as stream:
        assert stream.status == 200


async def test_a_listener_hears_of_the_requests_of_all_workers(folder: Path) -> None:
    async with engine_starter() as start:
        engine = await start()
        async with (
            running(environment_of(folder, PODS=engine.url)) as machine,
            ClientSession(f"http://127.0.0.1:{machine.port}") as client,
            told(client) as events,
        ):
            processes: set[str] = set()
            while len(processes) < 2:
                async with ClientSession(f"http://127.0.0.1:{machine.port}") as other:
                    await ask(other)
                while (one := await anext(events))["state"] not in ("ended", "failed", "refused"):
                    pass
                processes.add(one["id"].partition("-")[0])
