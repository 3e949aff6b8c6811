"""Engines that refuse, break or fall silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from service.gateway.retries import Limits
from tests.service.engines import StartEngine, chat
from tests.service.gateway.bare import bare_gateway
from tests.service.gateway.routed import CHAT, Before, Route
from tests.service.gateway.scripted import Received, answer, scripted
from tests.waiting import PATIENCE

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ABORT = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"abort"}]}\n\n'
DONE = b"data: [DONE]\n\n"
CORE_DIED = b'data: {"error":{"message":"EngineCore has died","type":"InternalServerError","code":500}}\n\n'
REFUSED = b'data: {"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}\n\n'
CREATED = b'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n'
STOPPED = b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":null},"usage":{}}\n\n'
MESSAGE_FAILED = b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"it died"}}\n\n'
REFUSED_MESSAGE = b'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"no"}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "attempts"),
    [(b"429 Too Many Requests", 3), (b"503 Service Unavailable", 3), (b"500 Internal Server Error", 1)],
)
async def test_an_error_of_all_engines_is_passed_on_unchanged_with_its_retry_after(
    before: Before, status: bytes, attempts: int, stream: bool
) -> None:
    headers = b"Content-Type: application/json\r\nRetry-After: 7\r\nX-Odd: 1\r\n"
    routed, engines = await before(answer(b'{"error" : 1}', status, headers), 4)
    async with routed.client.post(CHAT, json=chat("Hello", stream=stream)) as response:
        assert f"{response.status} {response.reason}".encode() == status
        assert (response.headers["Retry-After"], response.headers["X-Odd"]) == ("7", "1")
        assert response.content_type == "application/json"
        assert await response.read() == b'{"error" : 1}'
    assert sorted(len(engine.requests) for engine in engines) == [0] * (4 - attempts) + [1] * attempts


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Service Unavailable"])
async def test_a_refusal_is_passed_on_although_later_attempts_broke(before: Before, status: bytes) -> None:
    routed, engines = await before(answer(b""), 3)
    asked = 0

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            writer.transport.abort()
        else:
            await answer(b"refused", status, b"Retry-After: 3\r\n")(received, writer)

    for engine in engines:
        engine.respond = respond
    async with routed.client.post(CHAT, json=chat("Hello")) as response:
        assert f"{response.status} {response.reason}".encode() == status
        assert (response.headers["Retry-After"], await response.read()) == ("3", b"refused")
    assert asked == 3


@pytest.mark.parametrize(
    "first",
    [
        b"",
        chunk(ABORT),
        chunk(ABORT) + chunk(DONE) + b"0\r\n\r\n",
        chunk(CORE_DIED) + chunk(DONE) + b"0\r\n\r\n",
        chunk(MESSAGE_FAILED) + b"0\r\n\r\n",
        chunk(CREATED),
        chunk(CREATED) + chunk(CORE_DIED) + b"0\r\n\r\n",
        chunk(STOPPED) + b"0\r\n\r\n",
    ],
)
async def test_a_stream_that_ends_before_its_first_token_is_tried_elsewhere(before: Before, first: bytes) -> None:
    routed, engines = await before(answer(b""), 2)
    asked = 0

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            writer.write(STREAM_HEAD + first)
            await writer.drain()
            writer.close()
        else:
            writer.write(STREAM_HEAD + chunk(b'data: {"odd" : 1}\n\n') + chunk(DONE) + b"0\r\n\r\n")

    for engine in engines:
        engine.respond = respond
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await response.read() == b'data: {"odd" : 1}\n\n' + DONE
    assert [len(engine.requests) for engine in engines] == [1, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_engines_that_all_refuse_connections_are_503_with_retry_after_at_the_first_request(
    route: Route, stream: bool
) -> None:
    routed = await route(3, settings={"health_interval": 3600.0})
    for engine in routed.engines:
        await engine.stop()
    for _ in range(2):  # before and after the circuit breakers open
        async with routed.client.post(CHAT, json=chat("Hello", stream=stream)) as response:
            assert (response.status, response.content_type) == (503, "application/json")
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "no_pod_available"
    async with routed.client.get("/health") as response:
        assert (response.status, await response.text()) == (200, "OK")
    async with routed.client.get("/ready") as response:
        assert response.status == 503


async def test_the_health_of_a_pod_is_checked_at_once_when_it_refuses_a_connection(route: Route) -> None:
    routed = await route(2, settings={"health_interval": 3600.0})
    gone = routed.engines[0]
    await gone.stop()
    for number in range(10):
        async with routed.client.post(CHAT, json=chat(f"Hello {number}")) as response:
            assert response.status == 200
    await routed.until_pods(lambda pods: "/health" in (pods[gone.pod]["problem"] or ""))


async def test_an_engine_that_was_down_gets_requests_again_without_a_health_check(
    route: Route, start_engine: StartEngine
) -> None:
    routed = await route(1, settings={"health_interval": 3600.0})
    (gone,) = routed.engines
    await gone.stop()
    async with routed.client.post(CHAT, json=chat("Hello")) as response:
        assert response.status == 503
    back = await start_engine(port=int(gone.pod.rpartition(":")[2]))
    async with asyncio.timeout(PATIENCE):
        while True:
            async with routed.client.post(CHAT, json=chat("Hello")) as response:
                if response.status == 200:
                    break
                assert response.status == 503
    assert len(back.requests) == 1


@pytest.fixture(params=[b"", CREATED])
async def patient(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A gateway that sends comments often and allows little silence, before an engine that waits for the event."""
    goes_on = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + (chunk(request.param) if request.param else b""))
        await goes_on.wait()
        writer.write(chunk(b"data: {}\n\n") + chunk(DONE) + b"0\r\n\r\n")

    async with scripted(respond) as engine:
        limits = Limits(first_byte=PATIENCE, silence=0.05, keep_alive=0.01)
        async with bare_gateway(engine.url, engine.pod, limits) as url:
            yield url, goes_on


async def test_a_long_prefill_is_no_silence_since_the_stream_has_not_begun(patient: tuple[str, asyncio.Event]) -> None:
    url, goes_on = patient
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + CHAT, json=chat("Hello", stream=True)) as response,
    ):
        received = [await response.content.readuntil(b"\n\n") for _ in range(21)]
        # each comment after 0.01 s at least, and so for longer than the silence that is allowed
        assert set(received[1:]) == {b": keep-alive\n\n"}
        goes_on.set()
        rest = await response.read()
    assert received[0] in {CREATED, b": keep-alive\n\n"}
    assert rest.replace(b": keep-alive\n\n", b"") == b"data: {}\n\n" + DONE


async def test_an_event_that_comes_before_the_answer_in_pieces_does_not_begin_it() -> None:
    has_head, goes_on = asyncio.Event(), asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(CREATED[:40]))
        await has_head.wait()
        writer.write(chunk(CREATED[40:]))
        await goes_on.wait()
        writer.write(chunk(DONE) + b"0\r\n\r\n")

    limits = Limits(first_byte=PATIENCE, silence=0.05, keep_alive=0.01)
    async with (
        scripted(respond) as engine,
        bare_gateway(engine.url, engine.pod, limits) as url,
        aiohttp.ClientSession() as session,
        session.post(url + "/v1/responses", json={"input": "Hello", "stream": True}) as response,
    ):
        has_head.set()
        assert await response.content.readuntil(b"\n\n") == CREATED
        # each comment after 0.01 s at least, and so for longer than the silence that is allowed
        assert {await response.content.readuntil(b"\n\n") for _ in range(20)} == {b": keep-alive\n\n"}
        goes_on.set()
        assert (await response.read()).endswith(DONE)


async def test_an_event_that_says_abort_in_its_text_is_a_text(before: Before) -> None:
    event = b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": '"finish_reason": "abort"'}}]}).encode()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event) + chunk(DONE) + b"0\r\n\r\n")

    routed, _ = await before(respond)
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        assert await response.read() == event + DONE


@pytest.mark.parametrize("end", [ABORT, CORE_DIED])
@pytest.mark.parametrize("together", [False, True])
async def test_a_failure_that_an_engine_ends_properly_is_an_error_and_a_broken_connection(
    before: Before, end: bytes, together: bool
) -> None:
    token, got_token = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n', asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token))
        await got_token.wait()
        last = chunk(token + end + DONE) if together else chunk(token) + chunk(end) + chunk(DONE)
        writer.write(last + b"0\r\n\r\n")

    routed, engines = await before(respond, 2)
    received = b""
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            async for piece in response.content.iter_any():
                received += piece
                got_token.set()
    assert received.startswith(token + token + b"data: ")
    error = json.loads(received.removeprefix(token + token + b"data: "))["error"]
    assert error["code"] == "engine_broke_off"
    assert ("EngineCore has died" in error["message"]) == (end is CORE_DIED)
    assert sum(len(engine.requests) for engine in engines) == 1


@pytest.mark.parametrize("end", [b"", STOPPED + b"event: message_stop\ndata: {}\n\n", MESSAGE_FAILED, CORE_DIED])
async def test_a_stream_of_messages_or_responses_breaks_off_with_an_error_in_the_form_of_its_api(
    before: Before, end: bytes
) -> None:
    token = b'event: token\ndata: {"type":"token","sequence_number":41}\n\n'
    got_token = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token))
        await got_token.wait()
        if end:
            writer.write(chunk(end) + b"0\r\n\r\n")
        else:
            writer.close()

    routed, _ = await before(respond)
    for path, form in (
        ("/v1/messages", {"type": "error", "error": {"type": "api_error"}}),
        ("/v1/responses", {"type": "error", "code": "engine_broke_off", "param": None, "sequence_number": 42}),
    ):
        received = b""
        got_token.clear()
        async with routed.client.post(path, json=chat("Hello", stream=True)) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                async for piece in response.content.iter_any():
                    received += piece
                    got_token.set()
        assert received.startswith(token + b"event: error\ndata: ")
        told = json.loads(received.removeprefix(token + b"event: error\ndata: "))
        message = told.get("error", told).pop("message")
        assert message.startswith("the engine broke off: ")
        assert ("it died" in message) == (end is MESSAGE_FAILED)
        assert told == form


@pytest.mark.parametrize(("path", "refused"), [(CHAT, REFUSED), ("/v1/messages", REFUSED_MESSAGE)])
async def test_an_error_event_about_the_request_is_passed_on_unchanged(
    before: Before, path: str, refused: bytes
) -> None:
    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(refused) + chunk(DONE) + b"0\r\n\r\n")

    routed, engines = await before(respond, 2)
    async with routed.client.post(path, json=chat("Hello", stream=True)) as response:
        assert await response.read() == refused + DONE
    assert sum(len(engine.requests) for engine in engines) == 1
