"""Carries what replicas of one machine tell each other, through a hub in another process."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Final

from service.replicas.shared.base import CarrierStatus, Receiver
from service.replicas.shared.framing import End, keep_connected
from service.replicas.shared.wire import Append, Follow, Frame, Keep, Linked, Message, Unfollow, decode, encoded

_CLOSE_SECONDS: Final = 0.2
_GATHER_SECONDS: Final = 0.005
"""The least time between two writes, as with a Valkey: each wakes the hub, and the hub wakes all other workers."""


class ThroughHub:
    """A `Carrier` over the Unix socket of a hub."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._receiver: Receiver | None = None
        self._end: End | None = None
        self._followed: dict[str, None] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._down_since: float | None = time()
        self._problem: str | None = "not connected yet"
        self._sent = self._received = self._dropped = 0

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._connecting = asyncio.create_task(
            keep_connected(self._path, self._new_end, self._down), name="shared state of this machine"
        )

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._end is not None:
            self._end.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.closed.wait(), _CLOSE_SECONDS)

    def send(self, frame: bytes) -> None:
        self._tell(Frame(frame))

    def keep(self, key: str, value: bytes, seconds: float | None) -> None:
        self._tell(Keep(key, value, seconds))

    def append(self, log: str, entry: bytes) -> None:
        self._tell(Append(log, entry))

    def follow(self, log: str) -> None:
        self._followed[log] = None
        if self._end is not None:  # else when it is connected
            self._tell(Follow(log))

    def unfollow(self, log: str) -> None:
        if self._followed.pop(log, log) is None and self._end is not None:
            self._tell(Unfollow(log))

    def status(self) -> CarrierStatus:
        return CarrierStatus(self._down_since, self._problem, self._sent, self._received, self._dropped)

    def _new_end(self) -> End:
        return End(self._heard, ended=self._ended, gather_seconds=_GATHER_SECONDS)

    def _heard(self, end: End, body: bytes) -> None:
        assert self._receiver is not None  # noqa: S101 - connected after the start
        match decode(body):
            case Linked(kept):
                self._end, self._down_since, self._problem = end, None, None
                for log in self._followed:
                    self._tell(Follow(log))
                self._receiver.linked(kept)
            case Frame(frame):
                self._received += 1
                self._receiver.received(frame)
            case Append(log, entry):
                self._received += 1
                if log in self._followed:
                    self._receiver.appended(log, entry)
            case _:
                pass

    def _ended(self, end: End) -> None:
        self._end = None
        self._down("the connection has ended")

    def _down(self, problem: str) -> None:
        self._down_since = self._down_since or time()
        self._problem = problem

    def _tell(self, message: Message) -> None:
        if self._end is not None and self._end.send(encoded(message)):
            self._sent += 1
        else:
            self._dropped += 1
