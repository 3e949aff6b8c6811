"""service/connection.py uses private parts of aiohttp: each test names one, and its use."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web
from aiohttp.streams import StreamReader

from service.api.traffic import Traffic
from service.connection import Connection
from tests.waiting import PATIENCE, until

ADVICE = f"Compare service/connection.py with aiohttp/web_protocol.py of aiohttp {aiohttp.__version__}."


class Observed(web.RequestHandler):
    """aiohttp's connection, which tells when it was made, received data, gave an answer and ended."""

    __slots__ = ("finished", "lost", "made", "received")

    def __init__(self, server: web.Server) -> None:
        super().__init__(server, loop=asyncio.get_running_loop())
        self.made, self.lost = asyncio.Event(), asyncio.Event()
        self.received, self.finished = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.made.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.received.set()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.finished.set()


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


async def test_aiohttp_queues_requests_in_messages_and_wakes_its_task_by_the_waiter_alone() -> None:
    async with idle_connection() as (connection, writer):
        waiter = connection._waiter
        assert waiter is not None
        connection._waiter = None
        writer.write(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        await asyncio.wait_for(connection.received.wait(), PATIENCE)
        assert not waiter.done(), f"a request wakes the task in another way than by `_waiter`. {ADVICE}"
        ((message, payload),) = connection._messages
        assert isinstance(payload, StreamReader), f"the body is no StreamReader. {ADVICE}"
        assert payload.is_eof() and list(payload._buffer) == [b"abc"], f"the body is not in `_buffer`. {ADVICE}"
        assert (message.method, message.path) == ("POST", "/a")  # type: ignore[union-attr] # a request
        connection._waiter = waiter
        waiter.set_result(None)
        await asyncio.wait_for(connection.finished.wait(), PATIENCE)
        assert not connection._messages, f"the task takes no requests from `_messages`. {ADVICE}"


async def test_aiohttp_closes_idle_connections_by_the_keepalive_attributes() -> None:
    async with idle_connection() as (connection, _):
        connection._next_keepalive_close_time = 0.0
        assert connection._keepalive_handle is not None, f"no keep-alive timer from the start. {ADVICE}"
        connection._keepalive_handle.cancel()
        connection._keepalive_handle = connection._loop.call_later(0, connection._process_keepalive)
        await asyncio.wait_for(connection.lost.wait(), PATIENCE)


async def test_aiohttp_pauses_writing_when_the_client_does_not_read() -> None:
    async with idle_connection() as (connection, _):
        assert connection._paused is False, f"`_paused` is not whether writing is paused. {ADVICE}"
        connection.pause_writing()
        assert connection._paused is True, f"`_paused` is not whether writing is paused. {ADVICE}"
        connection.resume_writing()


async def test_aiohttp_keeps_the_event_loop_of_a_connection_in_loop() -> None:
    async with idle_connection() as (connection, _):
        assert connection._loop is asyncio.get_running_loop(), f"`_loop` is not the event loop. {ADVICE}"


HEADERS = {"Server": "kvcache", "X-Kvcache-Renderer": "template"}


def with_cookie() -> web.Response:
    response = web.Response(body=b"x", headers=HEADERS)
    response.set_cookie("a", "b")
    return response


def compressed() -> web.Response:
    response = web.Response(body=b"x" * 100, headers=HEADERS)
    response.enable_compression()
    return response


def last() -> web.Response:
    response = web.Response(body=b"x", headers=HEADERS)
    response.force_close()
    return response


RESPONSES: dict[str, Callable[[], web.Response]] = {
    "json": lambda: web.Response(body=b'{"a":1}', content_type="application/json", headers=HEADERS),
    "error": lambda: web.Response(status=404, body=b"{}", content_type="application/json", headers=HEADERS),
    "reason": lambda: web.Response(status=429, reason="Busy", body=b"{}", headers=HEADERS),
    "text": lambda: web.Response(text="käse", headers=HEADERS),
    "no body": lambda: web.Response(headers=HEADERS),
    "no content": lambda: web.Response(status=204, body=b"x", headers=HEADERS),
    "with a cookie": with_cookie,
    "compressed": compressed,
    "last": last,
}


def own_connection(server: web.Server) -> web.RequestHandler:
    return Connection(
        server,
        asyncio.get_running_loop(),
        traffic=Traffic(),
        header_timeout=PATIENCE,
        send_timeout=PATIENCE,
        keepalive_timeout=PATIENCE,
    )


async def bytes_sent(make: Callable[[web.Server], web.RequestHandler], kind: str, request: bytes) -> bytes:
    """What a connection sends for a request and then, unless that closes it, for a last one; without the date."""

    async def handler(_: web.BaseRequest) -> web.Response:
        return RESPONSES[kind]()

    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(lambda: make(server), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    try:
        writer.write(request)
        if b"HTTP/1.1" in request:
            writer.write(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n")
        sent = await asyncio.wait_for(reader.read(), PATIENCE)
        return re.sub(rb"Date: [^\r]+", b"Date: now", sent)
    finally:
        writer.close()
        listener.close()
        await server.shutdown(0.1)


@pytest.mark.parametrize("kind", RESPONSES)
@pytest.mark.parametrize(
    "request_line", ["POST /score HTTP/1.1", "HEAD /score HTTP/1.1", "GET /score HTTP/1.0"], ids=["post", "head", "1.0"]
)
async def test_a_small_response_has_the_same_bytes_as_from_aiohttp(kind: str, request_line: str) -> None:
    def theirs(server: web.Server) -> web.RequestHandler:
        return web.RequestHandler(server, loop=asyncio.get_running_loop())

    request = f"{request_line}\r\nHost: a\r\nAccept-Encoding: gzip\r\nContent-Length: 0\r\n\r\n".encode()
    sent = await bytes_sent(own_connection, kind, request)
    assert sent == await bytes_sent(theirs, kind, request), ADVICE
    assert sent.startswith(b"HTTP/1.")


async def test_a_small_response_to_a_client_that_has_left_ends_the_connection() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.abort()  # as when the client resets the connection
        return RESPONSES["json"]()

    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(lambda: own_connection(server), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    listener.close()
    await server.shutdown(PATIENCE)
    assert not server.connections


async def test_requests_wait_while_their_client_reads_no_answers() -> None:
    connections = []

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * 50_000)

    def made() -> web.RequestHandler:
        connections.append(own_connection(server))
        return connections[-1]

    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
    await until(lambda: bool(connections) and connections[0]._drain_waiter is not None)
    waiting = connections[0].transport
    assert waiting is not None and waiting.get_write_buffer_size() < 1 << 20
    transport.resume_reading()
    for _ in range(500):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert await asyncio.wait_for(reader.readexactly(50_000), PATIENCE)
    writer.close()
    listener.close()
    await server.shutdown(0.1)
