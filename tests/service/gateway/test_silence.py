"""Streams over time: silence within them, and chunks that are collected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from service.gateway.retries import Limits
from service.simulation.scheduler import Speed
from tests.service.engines import StartEngine, chat
from tests.service.gateway.bare import bare_gateway
from tests.service.gateway.scripted import Received, scripted
from tests.waiting import PATIENCE


@pytest.fixture
async def silent(start_engine: StartEngine) -> AsyncIterator[str]:
    """The URL of a gateway with short limits, before an engine that generates a token each 0.2 s."""
    engine = await start_engine(speed=Speed(decode_seconds=0.2))
    async with bare_gateway(engine.url, engine.pod, Limits(silence=PATIENCE, keep_alive=0.05)) as url:
        yield url


async def test_a_silent_stream_has_keep_alive_comments_between_its_events(silent: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{silent}/v1/chat/completions", json=chat("Hello", stream=True, max_tokens=3)) as response,
    ):
        events = (await response.text()).split("\n\n")
    comments = [event for event in events if event.startswith(":")]
    assert set(comments) == {": keep-alive"}
    assert len(comments) >= 2
    assert events[-2] == "data: [DONE]"


async def test_an_answer_that_is_not_streamed_has_no_comments(silent: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{silent}/v1/chat/completions", json=chat("Hello", max_tokens=3)) as response,
    ):
        assert (await response.json())["usage"]["completion_tokens"] == 3


async def test_chunks_of_a_stream_are_collected_for_an_interval() -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in (b"data: %d\n\n" % n for n in range(5))]
    seen = [asyncio.Event(), asyncio.Event()]

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk, event in zip(chunks, seen, strict=False):
            writer.write(chunk)
            await event.wait()
        for chunk in (*chunks[2:], b"0\r\n\r\n"):
            writer.write(chunk)
            await writer.drain()

    async with (
        scripted(respond) as engine,
        bare_gateway(engine.url, engine.pod, Limits(stream_interval=1.0)) as url,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(2):  # the connection is fit for another request
            async with session.post(f"{url}/v1/chat/completions", json=chat("Hello", stream=True)) as response:
                pieces = []
                for event in (*seen, None):
                    pieces.append(await response.content.readany())
                    if event is not None:
                        event.set()
                assert pieces == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\ndata: 3\n\ndata: 4\n\n"]
                assert await response.content.read() == b""
            for event in seen:
                event.clear()
        assert engine.connections == 1
