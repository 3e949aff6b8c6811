"""Forwards a response body from an engine's connection to the client's, piece by piece, as it arrives."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from service.gateway.connection import ConnectionBroken, EngineConnection
from service.gateway.failures import Failure, failure_in, may_tell_failure

_KEEP_ALIVE_COMMENT: Final = b": keep-alive\n\n"
_USAGE: Final = b'"usage"'
_USAGE_EVENT: Final = re.compile(rb'data: \{[^\n]*"choices":\s*\[\][^\n]*\}\n\n')
_MAX_UNSENT: Final = 64 << 10
_LAST_PIECES: Final = 3


class Relay:
    """Forwards one body within the engine's socket callback, without a turn of the event loop.

    It fails after `first_byte` seconds without the first byte and after `silence` seconds without another one; an
    event stream gets a comment after `keep_alive` seconds. Reading from the engine pauses while the client does not
    read, and for `interval` seconds after each piece of an event stream, so that several chunks take the work of one.
    """

    def __init__(
        self,
        connection: EngineConnection,
        transport: asyncio.Transport,
        *,
        is_chunked: bool,
        is_event_stream: bool,
        on_first: Callable[[], None] | None = None,
        hides_usage: bool = False,
        interval: float = 0.0,
    ) -> None:
        """`on_first` is called when the first piece arrives. `hides_usage` leaves out the event with the usage."""
        self._connection = connection
        self._transport = transport
        self._is_chunked = is_chunked
        self._is_event_stream = is_event_stream
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._limit = self._silence = 0.0
        self._failure: Failure | None = None
        self._on_first = on_first
        self._hides_usage = hides_usage
        self._interval = interval if is_event_stream else 0.0
        self._collecting: asyncio.TimerHandle | None = None
        self._is_draining = False
        self.last_pieces: deque[bytes] = deque(maxlen=_LAST_PIECES)
        """The end of the body, which says how many tokens there were."""
        self.sent_bytes = 0
        """With the framing of chunks."""
        self._wake = asyncio.Event()

    async def run(self, writer: AbstractStreamWriter, *, first_byte: float, silence: float, keep_alive: float) -> None:
        """Returns at the end of the body. Raises EngineError, and TimeoutError after too long a silence."""
        self._limit, self._silence = first_byte, silence
        commented = self._last
        self._connection.pass_to(self._received, self._wake.set, self._pass_framed if self._is_chunked else None)
        try:
            while True:
                self._wake.clear()
                if self._failure is not None:
                    raise ConnectionBroken(self._failure.reason)
                if self._connection.is_finished():
                    return
                if self._transport.get_write_buffer_size() > _MAX_UNSENT:
                    self._connection.pause()
                    self._is_draining = True
                    await writer.drain()
                    self._is_draining = False
                    self._connection.resume()
                    self._last = self._loop.time()
                    continue
                due = self._last + self._limit
                if self._is_event_stream:
                    due = min(due, max(self._last, commented) + keep_alive)
                try:
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                except TimeoutError:
                    now = self._loop.time()
                    if now >= self._last + self._limit:
                        raise
                    if self._is_event_stream and now >= max(self._last, commented) + keep_alive:
                        commented = now
                        self._send(_KEEP_ALIVE_COMMENT)
        finally:
            if self._collecting is not None:
                self._collecting.cancel()
            self._connection.pass_to(None, None)
            self._connection.resume()

    def _pass_framed(self, chunks: bytes) -> bool:
        """Passes whole chunks on as they are; False if something in them must be looked at."""
        if (
            self._on_first is not None
            or self._failure is not None
            or may_tell_failure(chunks)
            or (self._hides_usage and _USAGE in chunks)
        ):
            return False
        self._last = self._loop.time()
        self._limit = self._silence
        self.last_pieces.append(chunks)
        self.sent_bytes += len(chunks)
        self._transport.write(chunks)
        self._sent()
        return True

    def _received(self, piece: bytes) -> None:
        if self._failure is not None:
            return
        if self._is_event_stream and (failure := failure_in(piece)) is not None:
            self._failure = failure
            self._wake.set()
            piece = piece[: failure.position]
            if not piece:
                return
        self._last = self._loop.time()
        self._limit = self._silence
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        self.last_pieces.append(piece)
        if self._hides_usage:
            piece = without_usage(piece)
        if piece:
            self._send(piece)
        self._sent()

    def _sent(self) -> None:
        if self._transport.get_write_buffer_size() > _MAX_UNSENT:
            self._wake.set()
        elif self._interval:
            self._connection.pause()
            self._collecting = self._loop.call_later(self._interval, self._collected)

    def _collected(self) -> None:
        if not self._is_draining:
            self._connection.resume()

    def _send(self, piece: bytes) -> None:
        """Writes a piece with the same framing as aiohttp's writer."""
        sent = b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece
        self.sent_bytes += len(sent)
        self._transport.write(sent)


def without_usage(piece: bytes) -> bytes:
    """Whole events without the one that `include_usage` adds, which has no choices."""
    return _USAGE_EVENT.sub(b"", piece) if _USAGE in piece else piece


def client_transport(request: web.Request) -> asyncio.Transport:
    """The client's connection. Raises ConnectionError if the client has left."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    return transport
