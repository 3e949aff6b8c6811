"""Connections to one engine: each carries one request at a time and is kept for the next one."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import cast

from service.contract.pods import PodEntry
from service.gateway.http import Head, ProtocolError, ResponseParser

CONNECT_SECONDS = 2.0
_IDLE_SECONDS = 4.0  # uvicorn closes idle connections after 5
_MAX_BUFFERED = 256 << 10


class EngineError(Exception):
    """The engine did not answer; the text says why."""


class ConnectionRefused(EngineError):
    """No connection could be opened."""


class ConnectionBroken(EngineError):
    """The connection ended before the response did."""


class FirstByteTimeout(EngineError):
    """The engine did not begin its response in time."""


class EngineConnection(asyncio.Protocol):
    """One connection; `exchange` sends a request, `read` returns pieces of the body."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._head: asyncio.Future[Head] | None = None
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._error: EngineError | None = None
        self._wake: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._framed_sink: Callable[[bytes], bool] | None = None
        self._on_finished: Callable[[], None] | None = None
        self.received_any = False
        """Whether any byte of the current response has arrived."""
        self.idle_since = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether request and response are complete and the connection can carry another request."""
        parser, transport = self._parser, self._transport
        if parser is None or transport is None or not self.is_open or self._pieces:
            return False
        return parser.is_complete and parser.keep_alive and not transport.get_write_buffer_size()

    def close(self) -> None:
        """Closes the connection, which aborts a request in flight."""
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, method: str, request: bytes, body: bytes, limit: float) -> Head:
        """Sends a request and waits up to `limit` seconds for the head of the response. Raises EngineError."""
        if not self.is_open or self._transport is None:
            raise ConnectionBroken("the connection is closed")
        self._parser = ResponseParser(method)
        self._head = self._loop.create_future()
        self._error = None
        self.received_any = False
        self._transport.writelines([request, body] if body else [request])
        try:
            async with asyncio.timeout(limit):
                return await self._head
        except TimeoutError:
            raise FirstByteTimeout(f"no response within {limit:g} s") from None

    async def read(self, limit: float) -> bytes:
        """The next piece of the body, several chunks at once if they have arrived; empty at its end."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._parser is None or self._parser.is_complete:
                return b""
            self._wake = self._loop.create_future()
            async with asyncio.timeout(limit):
                await self._wake
        data = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        self.resume()
        return data

    def pass_to(
        self,
        sink: Callable[[bytes], None] | None,
        finished: Callable[[], None] | None,
        framed: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Passes the rest of the body, including buffered bytes, to `sink` as it arrives, then calls `finished`.

        `framed` gets whole chunks with their framing first, and returns whether it has taken them.
        """
        self._sink, self._on_finished, self._framed_sink = sink, finished, framed
        if sink is not None and self._pieces:
            sink(b"".join(self._pieces))
            self._pieces.clear()
            self._buffered = 0
            self.resume()

    def is_finished(self) -> bool:
        """Whether the body is complete. Raises EngineError if it cannot be completed."""
        if self._error is not None:
            raise self._error
        return self._parser is None or self._parser.is_complete

    def pause(self) -> None:
        if not self._paused and self.is_open and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            if self.is_open:
                self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        parser, framed = self._parser, self._framed_sink
        if framed is not None and parser is not None and parser.are_whole_chunks(data) and framed(data):
            return
        if parser is None or parser.is_complete:
            self.close()  # bytes without a request
            return
        self.received_any = True
        try:
            piece = parser.feed(data)
        except ProtocolError as error:
            self._fail(ConnectionBroken(str(error)))
            self.close()
            return
        if piece and self._sink is not None:
            self._sink(piece)
        elif piece:
            self._pieces.append(piece)
            self._buffered += len(piece)
            if self._buffered > _MAX_BUFFERED:
                self.pause()
        if self._head is not None and not self._head.done() and parser.head is not None:
            self._head.set_result(parser.head)
        if parser.is_complete or (piece and self._sink is None):
            self._notify()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._parser is not None and not self._parser.is_complete:
            try:
                if exc is None:  # a reset ends no body, also not one of unknown length
                    self._parser.end()
                else:
                    self._fail(ConnectionBroken(str(exc)))
            except ProtocolError:
                self._fail(ConnectionBroken("the engine closed the connection"))
        self._notify()

    def _fail(self, error: EngineError) -> None:
        self._error = error
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # the waiter may be gone
        self._notify()

    def _notify(self) -> None:
        if self._on_finished is not None:
            self._on_finished()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


@cache
def _trusting() -> ssl.SSLContext:
    """Trusts the certificates of SSL_CERT_FILE, or the system's; reading them takes 20 ms, so all engines share it."""
    return ssl.create_default_context()


class ConnectionPool:
    """The idle connections to one engine, most recently used first. Each is closed after a few seconds without use."""

    def __init__(self, entry: PodEntry) -> None:
        self._entry = entry
        self._idle: deque[EngineConnection] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._tls = _trusting() if entry.is_tls else None

    def __len__(self) -> int:
        return len(self._idle)

    def take_idle(self) -> EngineConnection | None:
        """An idle connection that is probably still open; None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and monotonic() - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def open(self) -> EngineConnection:
        """A new connection. Raises ConnectionRefused."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    EngineConnection, self._entry.host, self._entry.port, ssl=self._tls
                )
        except TimeoutError:
            raise ConnectionRefused(f"no connection within {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise ConnectionRefused(error.strerror or str(error)) from None
        return connection

    def put(self, connection: EngineConnection) -> None:
        """Keeps a connection for later requests, or closes it if its response was not read to the end."""
        if connection.is_reusable:
            connection.idle_since = monotonic()
            self._idle.append(connection)
            if self._expiry is None:
                self._expiry = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._expire)
        else:
            connection.close()

    def close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _expire(self) -> None:
        now = monotonic()
        while self._idle and (not self._idle[0].is_open or now - self._idle[0].idle_since >= _IDLE_SECONDS):
            self._idle.popleft().close()
        if self._idle:
            due = self._idle[0].idle_since + _IDLE_SECONDS - now
            self._expiry = asyncio.get_running_loop().call_later(max(due, 0.1), self._expire)
        else:
            self._expiry = None
