"""What failed attempts leave behind: nothing but a circuit breaker, which one answer closes."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp import ClientPayloadError

from service.fleet.breaker import MAX_FAILURES
from tests.service.engines import chat
from tests.service.gateway.routed import CHAT, Before, Routed
from tests.service.gateway.scripted import Received, ScriptedEngine, answer
from tests.waiting import PATIENCE, until

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def status_of(routed: Routed, text: str = "Hello") -> int:
    async with routed.client.post(CHAT, json=chat(text)) as response:
        return response.status


async def until_one_may_try(routed: Routed, engine: ScriptedEngine) -> None:
    await routed.until_pods(lambda pods: pods[engine.pod]["breaker"] == "half_open")


async def opened(before: Before) -> tuple[Routed, ScriptedEngine]:
    """A service whose only engine has reset so many connections that its breaker is open."""
    routed, (engine,) = await before(reset)
    for _ in range(MAX_FAILURES):
        assert await status_of(routed) == 502
    await until_one_may_try(routed, engine)
    return routed, engine


async def test_an_error_of_the_engine_to_the_request_that_tries_lets_another_one_try(before: Before) -> None:
    routed, engine = await opened(before)
    engine.respond = answer(b"{}", b"500 Internal Server Error")
    assert await status_of(routed) == 500
    engine.respond = answer(b"{}")
    assert [await status_of(routed) for _ in range(2)] == [200, 200]
    assert (await routed.pods())[engine.pod]["breaker"] == "closed"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "service.fleet.health_checks"]


async def test_the_log_tells_once_that_requests_to_a_healthy_pod_fail_and_once_that_they_do_not(
    before: Before, caplog: pytest.LogCaptureFixture
) -> None:
    routed, (engine,) = await before(reset, health_interval=0.2)
    caplog.set_level(logging.INFO)
    caplog.clear()
    for _ in range(MAX_FAILURES):
        assert await status_of(routed) == 502
    await until(lambda: len(told(caplog)) == 1)
    await until_one_may_try(routed, engine)
    assert await status_of(routed) == 502
    await until_one_may_try(routed, engine)
    engine.respond = answer(b"{}")
    assert await status_of(routed) == 200
    await until(lambda: len(told(caplog)) == 2)
    failing, answering = told(caplog)
    assert failing.startswith(f"Pod {engine.pod} is healthy, but requests to it fail: ")
    assert answering == f"Pod {engine.pod} answers requests again"


async def test_a_pod_whose_streams_begin_and_break_does_not_answer_again(
    before: Before, caplog: pytest.LogCaptureFixture
) -> None:
    breaks = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"a\r\ndata: {}\n\n\r\n")
        await breaks.wait()
        writer.transport.abort()

    routed, (engine,) = await before(respond, health_interval=0.05)
    caplog.set_level(logging.INFO)
    caplog.clear()

    async def until_checked() -> None:
        seen = engine.health_checks
        await until(lambda: engine.health_checks > seen + 1)

    for _ in range(MAX_FAILURES + 2):
        await routed.until_pods(lambda pods: pods[engine.pod]["breaker"] != "open")
        breaks.clear()
        async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
            assert await response.content.readuntil(b"\n\n") == b"data: {}\n\n"
            await until_checked()
            breaks.set()
            with pytest.raises(ClientPayloadError):
                await response.read()
        await until_checked()
    (failing,) = told(caplog)
    assert failing.startswith(f"Pod {engine.pod} is healthy, but requests to it fail: ")
    engine.respond = answer(b"{}")
    await until_one_may_try(routed, engine)
    assert await status_of(routed) == 200
    await until(lambda: len(told(caplog)) == 2)
    assert told(caplog)[1] == f"Pod {engine.pod} answers requests again"


async def test_others_need_not_wait_until_a_long_answer_ends_after_the_engine_is_back(before: Before) -> None:
    routed, engine = await opened(before)
    goes_on = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"a\r\ndata: {}\n\n\r\n")
        await goes_on.wait()
        writer.write(b"0\r\n\r\n")

    engine.respond = respond
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        assert await response.content.readuntil(b"\n\n") == b"data: {}\n\n"
        engine.respond = answer(b"{}")
        assert await status_of(routed) == 200
        goes_on.set()
        assert await response.read() == b""


REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: %b\r\nRetry-After: 0\r\nContent-Length: %d\r\n\r\nno"


@pytest.mark.parametrize(
    ("refusal", "kept"),
    [
        (REFUSED % (b"application/json", 2), 1),
        (REFUSED % (b"text/plain", 2), 1),
        (REFUSED % (b"text/plain", 1000), 0),  # its body does not end
    ],
)
async def test_the_connection_of_a_refusal_is_kept_or_closed(before: Before, refusal: bytes, kept: int) -> None:
    routed, (first, _) = await before(answer(b"{}"), 2)
    refused: list[asyncio.StreamWriter] = []

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        refused.append(writer)
        writer.write(refusal)

    first.respond = respond
    async with asyncio.timeout(PATIENCE):
        while len(refused) < 3:
            assert await status_of(routed) == 200
    await until(lambda: sum(not writer.is_closing() for writer in set(refused)) <= kept)


async def test_the_connection_of_a_refusal_is_closed_if_the_client_leaves_at_the_next_attempt(before: Before) -> None:
    routed, engines = await before(answer(b"{}"), 2)
    waits = asyncio.Event()
    refused: list[asyncio.StreamWriter] = []

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        if refused:
            waits.set()
        else:
            refused.append(writer)
            writer.write(REFUSED % (b"text/plain", 1000))

    for engine in engines:
        engine.respond = respond
    asking = asyncio.create_task(status_of(routed))
    await waits.wait()
    assert not refused[0].is_closing()
    asking.cancel()
    await until(refused[0].is_closing)
