"""Forwards a response body from an engine's connection to the client's, piece by piece, as it arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from aiohttp.abc import AbstractStreamWriter

from service.gateway.connection import ConnectionBroken, EngineConnection
from service.gateway.events import Events, before_answer

_KEEP_ALIVE_COMMENT: Final = b": keep-alive\n\n"
_MAX_UNSENT: Final = 64 << 10
_LAST_PIECES: Final = 3


class Relay:
    """Forwards one body within the engine's socket callback, without a turn of the event loop.

    It fails after `first_byte` seconds without the first byte and after `silence` seconds without another one; an
    event stream gets a comment after `keep_alive` seconds, unless one of its events has begun. Reading from the engine
    pauses while the client does not read, and for `interval` seconds after each piece of an event stream, so that
    several chunks take the work of one.
    """

    def __init__(
        self,
        connection: EngineConnection,
        transport: asyncio.Transport,
        *,
        is_chunked: bool,
        events: Events | None = None,
        takes_comments: bool = False,
        on_first: Callable[[], None] | None = None,
        before: bytes = b"",
        interval: float = 0.0,
    ) -> None:
        """`events` are those of an event stream.

        `on_first` is called when the first piece of the answer arrives; `before` are the events before it.
        """
        self._connection = connection
        self._transport = transport
        self._is_chunked = is_chunked
        self._events = events
        self._takes_comments = takes_comments
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._limit = self._silence = 0.0
        self._on_first = on_first
        self._before = before
        self._interval = interval if events is not None else 0.0
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
                if self._events is not None and self._events.failure is not None:
                    raise ConnectionBroken(self._events.failure.reason)
                if self._connection.is_finished():
                    if self._events is not None and (rest := self._events.rest()):
                        self._send(rest)
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
                if self._takes_comments:
                    due = min(due, max(self._last, commented) + keep_alive)
                try:
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                except TimeoutError:
                    now = self._loop.time()
                    if now >= self._last + self._limit:
                        raise
                    if self._takes_comments and now >= max(self._last, commented) + keep_alive:
                        commented = now
                        if self._events is None or self._events.is_between:
                            self._send(_KEEP_ALIVE_COMMENT)
        finally:
            if self._collecting is not None:
                self._collecting.cancel()
            self._connection.pass_to(None, None)
            self._connection.resume()

    def _pass_framed(self, chunks: bytes) -> bool:
        """Passes whole chunks on as they are; False if something in them must be looked at."""
        events = self._events
        if self._on_first is not None or (events is not None and not events.may_pass(chunks)):
            return False
        self._last = self._loop.time()
        self._limit = self._silence
        self.last_pieces.append(chunks)
        self.sent_bytes += len(chunks)
        self._transport.write(chunks)
        self._sent()
        return True

    def _received(self, piece: bytes) -> None:
        events = self._events
        if events is not None:
            if events.failure is not None:
                return
            shown = events.passed(piece)
            if events.failure is not None:
                self._wake.set()
                if not shown:
                    return
        else:
            shown = piece
        self._last = self._loop.time()
        if self._on_first is not None:
            before = before_answer(self._before + piece) if events is not None else None
            if before is None:
                self._on_first()
                self._on_first = None
            else:
                self._before = before
        if self._on_first is None:
            self._limit = self._silence
        self.last_pieces.append(piece)
        if shown:
            self._send(shown)
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
