"""A stop of the service while requests are at the engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from aiohttp import ClientSession

from service.contract.pods import PodEntry
from service.contract.settings import Settings
from service.server import listening
from tests.service.gateway.raw import post
from tests.service.gateway.routed import CHAT, Routed
from tests.service.gateway.scripted import Received, ScriptedEngine, answer, scripted
from tests.waiting import PATIENCE

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b'{"model": "builtin/demo", "messages": []}'
_STOP_SECONDS = 1.0
REQUEST = post(CHAT, BODY).replace(b"Connection: close\r\n", b"")


class Stopping:
    """A service with one engine, whose stop a test begins."""

    def __init__(self, stack: AsyncExitStack, port: int, engine: ScriptedEngine) -> None:
        self._stack = stack
        self.port = port
        self.engine = engine
        self.stopped: asyncio.Task[None] | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that has had an answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection: close" not in head
        assert await reader.readexactly(2) == b"{}"
        return reader, writer

    async def begin(self) -> None:
        """Begins the stop, and waits until the service says so."""
        async with ClientSession(f"http://127.0.0.1:{self.port}") as client:
            await client.get("/health")
            self.stopped = asyncio.create_task(self._stack.aclose())
            while (await client.get("/ready")).status == 200:
                pass

    async def until_it_would_have_ended(self) -> None:
        """Waits as long as a stop takes that waits for nothing."""
        assert self.stopped is not None
        await asyncio.wait([self.stopped], timeout=_STOP_SECONDS)

    async def end(self) -> None:
        assert self.stopped is not None
        await self.stopped


@pytest.fixture
async def stopping(settings: Settings) -> AsyncIterator[Stopping]:
    async with scripted(answer(b"{}")) as engine, AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        pods = (PodEntry(engine.url, engine.pod),)
        port = await stack.enter_async_context(listening(replace(settings, drain_timeout=PATIENCE, pods=pods)))
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            await Routed(client, []).until_healthy(1)
        yield Stopping(stack, port, engine)


async def test_a_stop_waits_for_an_answer_of_an_engine_over_a_connection_that_had_one_before(
    stopping: Stopping,
) -> None:
    goes_on = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"9\r\ndata: 1\n\n\r\n")
        await goes_on.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    reader, writer = await stopping.connect()
    stopping.engine.respond = respond
    writer.write(REQUEST)
    await reader.readuntil(b"data: 1\n\n\r\n")
    await stopping.begin()
    await stopping.until_it_would_have_ended()
    goes_on.set()
    assert await reader.read() == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
    writer.close()
    await stopping.end()


async def test_a_service_that_stops_tells_a_client_of_the_gateway_that_its_connection_ends(stopping: Stopping) -> None:
    reader, writer = await stopping.connect()
    await stopping.begin()
    writer.write(REQUEST)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert body == b"{}"
    writer.close()
    await stopping.end()
