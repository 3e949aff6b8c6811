"""POST /select and the reservations of clients that take their requests to engines themselves."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from service.contract.pods import PodEntry
from service.simulation.scheduler import Speed
from tests.service.conftest import Serve, url_of
from tests.service.engines import StartEngine, chat
from tests.service.gateway.routed import CHAT, Route, Routed

TEXT = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 8


async def select(routed: Routed, text: str = TEXT, status: int = 200, **fields: Any) -> dict[str, Any]:
    async with routed.client.post("/select", json={**chat(text), **fields}) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == status, answer
        return answer


async def in_flight(routed: Routed) -> int:
    return sum(pod["in_flight"] for pod in (await routed.pods()).values())


async def test_the_pod_that_holds_the_prompt_is_selected_and_every_candidate_explained(route: Route) -> None:
    routed = await route(3)
    async with routed.client.post(CHAT, json=chat(TEXT, max_tokens=1)) as response:
        holder = response.headers["X-Kvcache-Pod"]
        await response.read()
    await routed.until_applied(next(engine for engine in routed.engines if engine.pod == holder))
    selected = await select(routed)
    assert (selected["pod"], selected["url"], selected["reservation"]) == (holder, f"http://{holder}", None)
    assert selected["predicted_tokens"] == selected["candidates"][0]["predicted_tokens"] > 0
    assert [candidate["predicted_tokens"] for candidate in selected["candidates"][1:]] == [0, 0]
    assert selected["seconds"] < selected["candidates"][1]["seconds"]
    assert selected["left_out"] == []
    assert await in_flight(routed) == 0


async def test_pods_that_are_no_candidates_are_named_with_the_reason(route: Route) -> None:
    routed = await route(2)
    first, second = (engine.pod for engine in routed.engines)
    await routed.client.patch(f"/pods/{first}", json={"draining": True})
    selected = await select(routed)
    assert selected["pod"] == second
    assert selected["left_out"] == [{"pod": first, "reason": "draining"}]
    refused = await select(routed, status=503, pods=[first])
    assert f"{first}: draining; {second}: not among `pods`" in refused["error"]["message"]


async def test_a_reservation_counts_until_it_is_ended(route: Route) -> None:
    routed = await route(2)
    first = await select(routed, reserve=True)
    assert await in_flight(routed) == 1
    second = await select(routed, "Quite another question, which no pod has seen.", reserve=True)
    assert second["pod"] != first["pod"]
    url = f"/reservations/{first['reservation']}"
    async with routed.client.post(f"{url}/first_token") as response:
        assert await response.json() == {"id": first["reservation"], "active": True}
    async with routed.client.delete(url) as response:
        assert await response.json() == {"id": first["reservation"], "active": False}
    assert await in_flight(routed) == 1
    async with routed.client.delete(url) as response:
        assert response.status == 404


async def test_scores_count_what_requests_on_their_way_will_leave_only_if_asked(route: Route) -> None:
    routed = await route(2, settings={"block_size": 16})
    prompt = {"prompt": list(range(1, 1025))}

    async def post(path: str, **fields: Any) -> Any:
        async with routed.client.post(path, json={**prompt, **fields}) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    selected = await post("/select", reserve=True)
    pod, other = selected["pod"], next(engine.pod for engine in routed.engines if engine.pod != selected["pod"])
    assert await post("/score") is None
    assert await post("/score", placements=True) == {pod: 64}
    assert await post("/score", placements=True, prompt=[*range(1, 1025), 7]) == {pod: 64}
    assert await post("/score", placements=True, prompt=list(range(1, 600))) == {pod: 37}
    assert await post("/score", placements=True, pods=[other]) is None
    assert await post("/score", placements=True, cache_salt="other") is None
    assert await post("/score", placements=True, prompt_logprobs=1) is None
    plain, explained = await post("/explain"), await post("/explain", placements=True)
    assert (plain["pod_scores"], plain["placements"]) == (None, [])
    assert (explained["pod_scores"], explained["matches"]) == ({pod: 64}, [])
    assert explained["placements"] == [{"pod": pod, "rank": 0, "tokens": 1024}]
    await routed.client.delete(f"/reservations/{selected['reservation']}", params={"answered": "false"})
    assert await post("/score", placements=True) is None


async def test_a_chat_s_scores_count_placements_beyond_what_events_tell(route: Route) -> None:
    routed = await route(1, settings={"block_size": 16})
    pod = routed.engines[0].pod
    async with routed.client.post(CHAT, json=chat(TEXT, max_tokens=1)) as response:
        await response.read()
    await routed.until_applied(routed.engines[0])
    longer = chat(TEXT * 5)
    before = await (await routed.client.post("/score", json=longer)).json()
    assert before[pod] > 0
    await select(routed, TEXT * 5, reserve=True)
    assert await (await routed.client.post("/score", json=longer)).json() == before
    scored = [
        (await (await routed.client.post(path, json={**longer, "placements": True})).json())
        for path in ("/score", "/score_completions")
    ]
    assert scored[0] == scored[1]["pod_scores"]
    assert scored[0][pod] > before[pod]


async def test_the_rank_is_named_as_the_engine_reads_it(route: Route) -> None:
    routed = await route(1, ranks=2)
    selected = [await select(routed, f"{number} {TEXT}", reserve=True) for number in range(2)]
    assert {one["rank"] for one in selected} == {0, 1}
    assert selected[0]["headers"] == {"X-data-parallel-rank": str(selected[0]["rank"])}
    assert selected[0]["body"] == {}


async def test_speeds_are_learned_from_answers_that_come_whole(start_engine: StartEngine, serve: Serve) -> None:
    engines = [await start_engine(speed=Speed(prefill_rate=rate)) for rate in (500.0, 100_000.0)]
    pods = tuple(PodEntry(engine.url, engine.pod) for engine in engines)
    routed = Routed(await serve(pods=pods, health_interval=0.2), engines)
    await routed.until_healthy(2)
    for pod, other in ((0, 1), (1, 0)):
        await routed.client.patch(f"/pods/{engines[other].pod}", json={"draining": True})
        await routed.client.patch(f"/pods/{engines[pod].pod}", json={"draining": False})
        async with routed.client.post(CHAT, json=chat(f"{pod} {TEXT * 8}", max_tokens=1)) as response:
            assert response.headers["X-Kvcache-Pod"] == engines[pod].pod
            await response.read()
    await routed.client.patch(f"/pods/{engines[0].pod}", json={"draining": False})
    seconds = {one["pod"]: one["seconds"] for one in (await select(routed, f"2 {TEXT * 8}"))["candidates"]}
    assert seconds[engines[0].pod] > 3 * seconds[engines[1].pod]


async def test_a_body_that_is_no_request_is_refused(route: Route) -> None:
    routed = await route(1)
    assert (await select(routed, status=400, seconds="soon"))["error"]["param"] == "seconds"
    async with routed.client.post("/select", json={"model": "builtin/demo"}) as response:
        assert response.status == 400


async def test_the_command_shows_the_selected_pod_and_who_is_left_out(route: Route) -> None:
    routed = await route(2)
    first, second = (engine.pod for engine in routed.engines)
    await routed.client.patch(f"/pods/{first}", json={"draining": True})
    command = [sys.executable, "-m", "orchestrator", "select", TEXT, "--url", url_of(routed.client)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    lines = output.decode().splitlines()
    assert lines[0] == f"http://{second}"
    assert second in next(line for line in lines if line.startswith("→"))
    assert lines[-1] == f"left out: {first}: draining"


async def test_explain_foresees_the_choice_and_leaves_no_trace(route: Route) -> None:
    routed = await route(2)
    async with routed.client.post(CHAT, json=chat(TEXT, max_tokens=1)) as response:
        holder = response.headers["X-Kvcache-Pod"]
        await response.read()
    await routed.until_applied(next(engine for engine in routed.engines if engine.pod == holder))
    async with routed.client.post("/explain", json=chat(TEXT)) as response:
        assert (await response.json())["choice"] is None
    async with routed.client.post("/explain", json=chat(TEXT, choice=True)) as response:
        choice = (await response.json())["choice"]
    assert choice["chosen"]["pod"] == holder
    assert choice["chosen"]["predicted_tokens"] == (await select(routed))["predicted_tokens"] > 0
    assert len(choice["candidates"]) == 2
    assert await in_flight(routed) == 0
    await routed.client.patch(f"/pods/{holder}", json={"draining": True})
    async with routed.client.post("/explain", json=chat(TEXT, choice=True)) as response:
        choice = (await response.json())["choice"]
    assert choice["chosen"]["pod"] != holder
    assert choice["left_out"] == [{"pod": holder, "reason": "draining"}]
