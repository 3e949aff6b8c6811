"""Answers of engines, held against predictions as they pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.simulation.publisher import batch_payload
from tests.service.engines import MODEL, chat
from tests.service.gateway.routed import CHAT, Before, Route, Routed
from tests.service.gateway.scripted import answer

TEXT = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 8


async def ask(routed: Routed, text: str, **fields: Any) -> int:
    """Sends a chat and reads its answer; gives the predicted tokens."""
    body = chat(text, max_tokens=2, **fields)
    async with routed.client.post(CHAT, json=body) as response:
        assert response.status == 200
        await response.read()
        predicted = int(response.headers["X-Kvcache-Predicted-Tokens"])
    await routed.until_applied(routed.engines[0])
    return predicted


async def verdict(routed: Routed) -> str:
    (pod,) = (await routed.pods()).values()
    return str(pod["reuse"])


@pytest.mark.parametrize("stream", [True, False])
async def test_predictions_are_held_against_the_usage_of_answers(route: Route, stream: bool) -> None:
    routed = await route(1)
    fields = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    for number in range(10):
        await ask(routed, f"{TEXT} {number}", **fields)
    assert await verdict(routed) == "equal"
    text = await (await routed.client.get("/metrics")).text()
    (line,) = (line for line in text.splitlines() if line.startswith("kvcache_routed_requests_total"))
    assert line == f'kvcache_routed_requests_total{{pod="{routed.engines[0].pod}",result="equal"}} 10.0'


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_answers_of_other_apis_are_held_against_predictions_too(route: Route, path: str, stream: bool) -> None:
    routed = await route(1, settings={"ask_usage": True})
    (engine,) = routed.engines
    for number in range(10):
        text = f"{TEXT} {number}"
        asked = {"input": text} if path == "/v1/responses" else {"messages": [{"role": "user", "content": text}]}
        body = {"model": MODEL, "max_tokens": 2, "max_output_tokens": 2, "stream": stream, **asked}
        async with routed.client.post(path, json=body) as response:
            assert response.status == 200
            await response.read()
        await routed.until_applied(engine)
    assert await verdict(routed) == "equal"
    metrics = await (await routed.client.get("/metrics")).text()
    assert f'kvcache_routed_requests_total{{pod="{engine.pod}",result="equal"}} 10.0' in metrics
    assert "stream_options" not in json.loads(engine.requests[-1].body)


@pytest.mark.parametrize(("reused", "differ"), [(0, True), (50, False)])
async def test_a_count_that_can_be_read_in_two_ways_is_no_proof_that_tokens_differ(
    before: Before, caplog: pytest.LogCaptureFixture, reused: int, differ: bool
) -> None:
    usage = {"input_tokens": 7777, "cache_read_input_tokens": reused, "output_tokens": 2}
    message = {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}
    routed, _ = await before(answer(json.dumps(message).encode()))
    for number in range(10):
        async with routed.client.post("/v1/messages", json=chat(f"{TEXT} {number}", max_tokens=2)) as response:
            assert response.status == 200
            await response.read()
    told = [record.getMessage() for record in caplog.records if record.name == "service.routing.accuracy"]
    assert bool(told) == differ


async def test_a_prediction_for_a_rank_that_is_inexact_says_so(route: Route) -> None:
    routed = await route(1)
    (engine,) = routed.engines
    publisher = engine.ranks[0].publisher
    bases = []
    for number in range(3):
        if number == 2:  # batches that nobody has
            publisher.publish(batch_payload([]), sequence=publisher.sequence + 3)
            await routed.until_applied(engine)
        async with routed.client.post(CHAT, json=chat(TEXT, max_tokens=2)) as response:
            await response.read()
        bases.append("inexact" in response.headers["X-Kvcache-Predicted-From"])
        await routed.until_applied(engine)
    assert bases == [True, False, True]  # before the first batch, nothing was heard of the rank


@pytest.mark.parametrize("stream", [True, False])
async def test_nothing_is_predicted_of_blocks_that_an_engine_has_dropped_right_after_it_stored_them(
    route: Route, stream: bool
) -> None:
    routed = await route(1)
    long = TEXT * 8  # more than the shortest placement
    await ask(routed, long, stream=stream)
    async with routed.client.post(f"{routed.engines[0].url}/reset_prefix_cache") as response:
        assert response.status == 200
    await routed.until_applied(routed.engines[0])
    body = chat(long, max_tokens=2)
    async with routed.client.post(CHAT, json=body) as response:
        answer = await response.json()
    assert answer["usage"]["prompt_tokens"] > 600
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert response.headers["X-Kvcache-Predicted-Tokens"] == "0"
    assert response.headers["X-Kvcache-Predicted-From"] != "placement"


async def test_a_stream_without_usage_tells_nothing(route: Route) -> None:
    routed = await route(1)
    for number in range(10):
        await ask(routed, f"{TEXT} {number}", stream=True)
    assert await verdict(routed) == "unknown"


async def test_usage_is_asked_for_if_the_operator_allows_it_and_clients_do_not_see_it(route: Route) -> None:
    routed = await route(1, settings={"ask_usage": True})
    shown = []
    for number in range(10):
        body = chat(f"{TEXT} {number}", max_tokens=2, stream=True)
        async with routed.client.post(CHAT, json=body) as response:
            shown.append(await response.text())
        await routed.until_applied(routed.engines[0])
    assert await verdict(routed) == "equal"
    assert all("usage" not in text and text.endswith("data: [DONE]\n\n") for text in shown)
    body["stream_options"] = {"include_usage": True}
    async with routed.client.post(CHAT, json=body) as response:
        assert '"prompt_tokens"' in await response.text()
    body["stream_options"] = {"include_usage": False}
    async with routed.client.post(CHAT, json=body) as response:
        assert "usage" not in await response.text()


async def test_an_engine_that_runs_eagle_is_found_out_and_corrected(route: Route) -> None:
    routed = await route(1, eagle=True)
    predicted = [await ask(routed, f"{TEXT} {number}") for number in range(24)]
    assert predicted[1] - predicted[-1] == 16
    assert await verdict(routed) == "equal"
    (rank,) = (await (await routed.client.get("/pods")).json())["pods"]
    assert rank["exact"]
