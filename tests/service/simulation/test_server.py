"""A simulated engine as its clients see it, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from service.simulation.faults import Fault
from service.simulation.scheduler import Speed
from service.simulation.server import EngineServer
from tests.service.conftest import Serve
from tests.service.engines import MODEL, StartEngine, chat, endpoints_of
from tests.service.official_client import official_client
from tests.waiting import PATIENCE, until

LONG = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 20


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(http: aiohttp.ClientSession, engine: EngineServer, body: dict[str, Any], **headers: str) -> Any:
    async with http.post(f"{engine.url}/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def cached(answer: Any) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


async def test_openai_s_client_gets_whole_and_streamed_chats(start_engine: StartEngine) -> None:
    engine = await start_engine()
    async with official_client(engine.url) as client:
        messages: Any = [{"role": "user", "content": "Hello"}]
        whole = await client.chat.completions.create(model=MODEL, messages=messages)
        stream = await client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert [model.id async for model in client.models.list()] == [MODEL]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert whole.usage is not None and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 1


async def test_the_next_turn_of_a_chat_reuses_its_prompt_and_its_reply(
    start_engine: StartEngine, http: aiohttp.ClientSession
) -> None:
    engine = await start_engine()
    first = await ask(http, engine, chat(LONG))
    reply = first["choices"][0]["message"]
    messages = [*chat(LONG)["messages"], reply, {"role": "user", "content": "And then?"}]
    second = await ask(http, engine, {"model": MODEL, "messages": messages})
    assert cached(first) == 0
    computed = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - 1
    assert cached(second) == computed // 16 * 16


async def test_the_service_predicts_the_reuse_of_each_rank(
    start_engine: StartEngine, http: aiohttp.ClientSession, serve: Serve
) -> None:
    engine = await start_engine(ranks=2)
    service = await serve(zmq_endpoint=endpoints_of(engine))
    for rank in engine.ranks:
        await rank.publisher.subscribed()
    await ask(http, engine, chat(LONG), **{"X-data-parallel-rank": "1"})
    explained: dict[int, int] = {}
    async with asyncio.timeout(PATIENCE):
        while not explained:
            answer = await (await service.post("/explain", json=chat(LONG))).json()
            explained = {match["rank"]: match["matched_tokens"] for match in answer["matches"]}
    other = await ask(http, engine, chat(LONG), **{"X-data-parallel-rank": "0"})
    same = await ask(http, engine, chat(LONG), **{"X-data-parallel-rank": "1"})
    assert (cached(other), cached(same)) == (explained.get(0, 0), explained[1])
    assert cached(same) > 100


async def test_a_cache_salt_separates_equal_prompts(start_engine: StartEngine, http: aiohttp.ClientSession) -> None:
    engine = await start_engine()
    assert cached(await ask(http, engine, chat(LONG, cache_salt="a"))) == 0
    assert cached(await ask(http, engine, chat(LONG, cache_salt="b"))) == 0
    assert cached(await ask(http, engine, chat(LONG, cache_salt="a"))) > 0


async def test_max_tokens_and_ignore_eos_decide_the_length_of_the_reply(
    start_engine: StartEngine, http: aiohttp.ClientSession
) -> None:
    engine = await start_engine()
    for fields, expected in (({"max_tokens": 3}, 3), ({"max_tokens": 500, "ignore_eos": True}, 500)):
        answer = await ask(http, engine, chat("Hello", **fields))
        assert answer["usage"]["completion_tokens"] == expected
        assert answer["choices"][0]["finish_reason"] == "length"


async def test_prefill_takes_time_for_uncached_tokens(start_engine: StartEngine, http: aiohttp.ClientSession) -> None:
    engine = await start_engine(speed=Speed(prefill_rate=2_000))
    started = time.monotonic()
    answer = await ask(http, engine, chat(LONG))
    assert time.monotonic() - started >= answer["usage"]["prompt_tokens"] / 2_000


async def test_a_stream_begins_before_its_prompt_is_computed(
    start_engine: StartEngine, http: aiohttp.ClientSession
) -> None:
    engine = await start_engine(speed=Speed(prefill_rate=0.001))
    async with http.post(f"{engine.url}/v1/chat/completions", json=chat("Hello", stream=True)) as response:
        assert response.content_type == "text/event-stream"
    body = {"model": MODEL, "input": "Hello", "stream": True}
    async with http.post(f"{engine.url}/v1/responses", json=body) as response:
        assert await response.content.readline() == b"event: response.created\n"
    assert engine.ranks[0].hit_tokens == engine.ranks[0].requests == 0


async def test_requests_beyond_the_limit_wait(start_engine: StartEngine, http: aiohttp.ClientSession) -> None:
    engine = await start_engine(speed=Speed(decode_seconds=60, max_running=2))
    tasks = [asyncio.create_task(ask(http, engine, chat(f"Hello {number}"))) for number in range(5)]
    await until(lambda: (engine.ranks[0].running, engine.ranks[0].waiting) == (2, 3))
    metrics = await (await http.get(f"{engine.url}/metrics")).text()
    assert 'vllm:num_requests_running{engine="0",model_name="builtin/demo"} 2.0' in metrics
    assert 'vllm:num_requests_waiting{engine="0",model_name="builtin/demo"} 3.0' in metrics
    for task in tasks:
        task.cancel()
    await until(lambda: engine.in_flight == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_its_request(
    start_engine: StartEngine, http: aiohttp.ClientSession, stream: bool
) -> None:
    engine = await start_engine(speed=Speed(decode_seconds=60))
    task = asyncio.create_task(ask(http, engine, chat("Hello", stream=stream)))
    await until(lambda: engine.ranks[0].running == 1)
    task.cancel()
    await until(lambda: engine.in_flight == 0)
    assert engine.aborted == 1


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"model', 400, "invalid JSON"),
        (b"[]", 400, "must be a JSON object"),
        (b"{}", 400, "messages"),
        (b'{"model": "other", "messages": []}', 404, "The model `other` does not exist."),
        (msgspec.json.encode(chat("word " * 100_000)), 400, "tokens, the engine takes 65519"),
    ],
)
async def test_a_wrong_request_is_refused_as_vllm_does(
    start_engine: StartEngine, http: aiohttp.ClientSession, body: bytes, status: int, message: str
) -> None:
    engine = await start_engine()
    async with http.post(f"{engine.url}/v1/chat/completions", data=body) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert error["code"] == status
    assert message in error["message"]


async def test_a_rank_out_of_range_is_refused(start_engine: StartEngine, http: aiohttp.ClientSession) -> None:
    engine = await start_engine(ranks=2)
    headers = {"X-data-parallel-rank": "2"}
    async with http.post(f"{engine.url}/v1/chat/completions", json=chat("Hello"), headers=headers) as response:
        assert response.status == 400


async def test_faults_before_an_answer(
    start_engine: StartEngine, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await start_engine()
    url = f"{engine.url}/v1/chat/completions"
    fault = {"kind": "status", "status": 429, "retry_after": 7}
    assert (await (await http.post(f"{engine.url}/simulation/faults", json=fault)).json()) == {"coming": 1}
    async with http.post(url, json=chat("Hello")) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
    engine.faults.add(Fault("reset"))
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post(url, json=chat("Hello"))
    engine.faults.add(Fault("hang"))
    hanging = asyncio.create_task(http.post(url, json=chat("Hello")))
    await until(lambda: len(engine.faults) == 0)
    assert not (await asyncio.wait({hanging}, timeout=0.1))[0]
    hanging.cancel()
    await ask(http, engine, chat("Hello"))
    await http.post(f"{engine.url}/simulation/faults", json={**fault, "times": 9})
    await http.delete(f"{engine.url}/simulation/faults")
    await ask(http, engine, chat("Hello"))
    assert not caplog.records, "a fault that was asked for is no error of the simulation"


async def streamed(http: aiohttp.ClientSession, engine: EngineServer) -> list[str]:
    """The events of a streamed chat. Raises aiohttp.ClientPayloadError if the answer is not complete."""
    async with http.post(f"{engine.url}/v1/chat/completions", json=chat("Hello", stream=True)) as response:
        lines = (await response.text()).splitlines()
    return [line.removeprefix("data: ") for line in lines if line]


async def test_faults_in_mid_stream(start_engine: StartEngine, http: aiohttp.ClientSession) -> None:
    engine = await start_engine()
    engine.faults.add(Fault("die"))
    with pytest.raises(aiohttp.ClientPayloadError):
        await streamed(http, engine)
    engine.faults.add(Fault("abort"))
    *_, last, done = await streamed(http, engine)
    assert json.loads(last)["choices"][0]["finish_reason"] == "abort"
    assert done == "[DONE]"
    engine.faults.add(Fault("engine_dead"))
    *_, last, done = await streamed(http, engine)
    assert json.loads(last)["error"]["code"] == 500
    assert (await http.get(f"{engine.url}/health")).status == 503


async def test_a_reset_prefix_cache_reuses_nothing(start_engine: StartEngine, http: aiohttp.ClientSession) -> None:
    engine = await start_engine()
    await ask(http, engine, chat(LONG))
    await http.post(f"{engine.url}/reset_prefix_cache")
    assert cached(await ask(http, engine, chat(LONG))) == 0


async def test_tokenize_and_render_give_the_tokens_of_the_prompt(
    start_engine: StartEngine, http: aiohttp.ClientSession
) -> None:
    engine = await start_engine()
    answer = await ask(http, engine, chat("Hello"))
    tokenized = await (await http.post(f"{engine.url}/tokenize", json=chat("Hello"))).json()
    rendered = await (await http.post(f"{engine.url}/v1/chat/completions/render", json=chat("Hello"))).json()
    assert tokenized["tokens"] == rendered["token_ids"]
    assert tokenized["count"] == answer["usage"]["prompt_tokens"]


async def test_event_sources_are_given_for_each_rank(start_engine: StartEngine, http: aiohttp.ClientSession) -> None:
    engine = await start_engine(ranks=2)
    sources = await (await http.get(f"{engine.url}/kv_event_sources")).json()
    assert list(sources) == ["0", "1"]
    for number, rank in enumerate(engine.ranks):
        assert sources[str(number)]["endpoint"] == rank.publisher.address.replace("127.0.0.1", "*")
        assert sources[str(number)]["topic"] == f"kv@{engine.pod}@{MODEL}"
