"""service/connection.py uses private parts of aiohttp's RequestHandler; each test names one, and its use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from tests.waiting import PATIENCE

ADVICE = f"Compare service/connection.py with aiohttp/web_protocol.py of aiohttp {aiohttp.__version__}."


class Observed(web.RequestHandler):
    """aiohttp's connection, which tells when it was made and when it received data."""

    __slots__ = ("made", "received")

    def __init__(self, server: web.Server) -> None:
        super().__init__(server, loop=asyncio.get_running_loop())
        self.made = asyncio.Event()
        self.received = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.made.set()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.received.set()


@asynccontextmanager
async def idle_connection() -> AsyncIterator[tuple[Observed, asyncio.StreamWriter]]:
    """A connection that waits for its first request, and the client's end of it."""

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response()

    server = web.Server(handler)
    connection = Observed(server)
    listener = await asyncio.get_running_loop().create_server(lambda: connection, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    try:
        await asyncio.wait_for(connection.made.wait(), PATIENCE)
        yield connection, writer
    finally:
        writer.close()
        listener.close()
        await server.shutdown(0.1)


async def test_aiohttp_resolves_waiter_when_the_headers_of_a_request_are_complete() -> None:
    async with idle_connection() as (connection, writer):
        waiter = connection._waiter
        assert waiter is not None and not waiter.done(), f"`_waiter` is no longer pending while idle. {ADVICE}"
        writer.write(b"GET / HTTP/1.1\r\n")
        await asyncio.wait_for(connection.received.wait(), PATIENCE)
        assert not waiter.done(), f"`_waiter` resolves before the headers are complete. {ADVICE}"
        writer.write(b"Host: a\r\n\r\n")
        await asyncio.wait_for(asyncio.shield(waiter), PATIENCE)


async def test_aiohttp_keeps_the_event_loop_of_a_connection_in_loop() -> None:
    async with idle_connection() as (connection, _):
        assert connection._loop is asyncio.get_running_loop(), f"`_loop` is not the event loop. {ADVICE}"
