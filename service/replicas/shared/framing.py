"""Messages of bytes over a Unix socket, each after its length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Final

_LENGTH: Final = Struct(">I")
_MAX_UNSENT: Final = 64 << 20
"""Bytes that may wait until the other end reads them."""
_RETRY_SECONDS: Final = 0.1


def framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


class End(asyncio.Protocol):
    """One end of a connection between processes of this service."""

    def __init__(
        self,
        heard: Callable[[End, bytes], None],
        *,
        begun: Callable[[End], None] = lambda end: None,
        ended: Callable[[End], None] = lambda end: None,
        gather_seconds: float = 0.0,
    ) -> None:
        """`begun` is called before the first message, `heard` with each, and `ended` after the last.

        A message is sent in the next turn of the event loop, but not within `gather_seconds` of the one before: what
        comes meanwhile is sent together, since each write wakes a process.
        """
        self._heard = heard
        self._begun = begun
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._loop = asyncio.get_running_loop()
        self._gather_seconds = gather_seconds
        self._flushed_at = 0.0
        self._unsent = bytearray()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # of a stream socket
        self._begun(self)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start, head = 0, _LENGTH.size
        while len(received) - start >= head:
            (length,) = _LENGTH.unpack_from(received, start)
            end = start + head + length
            if len(received) < end:
                break
            message = bytes(received[start + head : end])
            start = end
            self._heard(self, message)
        del received[:start]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.closed.set()
        self._ended(self)

    def send(self, sent: bytes) -> bool:
        """Sends a framed message; False if it is not connected, or the other end has too much to read."""
        transport = self._transport
        if (
            transport is None
            or transport.is_closing()
            or transport.get_write_buffer_size() + len(self._unsent) > _MAX_UNSENT
        ):
            return False
        if not self._unsent:
            self._loop.call_at(self._flushed_at + self._gather_seconds, self._flush)
        self._unsent += sent
        return True

    def _flush(self) -> None:
        if self._transport is not None and self._unsent and not self._transport.is_closing():
            self._transport.write(bytes(self._unsent))
            self._flushed_at = self._loop.time()
        self._unsent.clear()

    def close(self) -> None:
        """Ends the connection when everything is sent."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def keep_connected(
    path: Path, new_end: Callable[[], End], failed: Callable[[str], None] = lambda problem: None
) -> None:
    """Connects to a Unix socket, and again whenever the connection has ended; `failed` is told why it cannot."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, end = await loop.create_unix_connection(new_end, str(path))
        except OSError as error:
            failed(str(error))
        else:
            await end.closed.wait()
        await asyncio.sleep(_RETRY_SECONDS)
