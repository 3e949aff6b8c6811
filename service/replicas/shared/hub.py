"""Joins the replicas of one machine: brings frames to the others, keeps values, and holds logs. In one process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

from service.replicas.shared.framing import End, framed
from service.replicas.shared.wire import Append, Follow, Frame, Keep, Linked, Unfollow, decode, encoded

_LOG_ENTRIES: Final = 10_000
_LOG_BYTES: Final = 16 << 20
"""Maximum size of a log; the oldest entries are dropped."""


class _Log:
    def __init__(self) -> None:
        self.entries: deque[bytes] = deque()
        self.bytes = 0
        self.followers: set[End] = set()

    def append(self, sent: bytes) -> None:
        self.entries.append(sent)
        self.bytes += len(sent)
        while self.entries and (len(self.entries) > _LOG_ENTRIES or self.bytes > _LOG_BYTES):
            self.bytes -= len(self.entries.popleft())


class Hub:
    """Listens on a Unix socket, and answers as `Carrier` describes.

    A replica that does not read is disconnected: when it comes again, it is told what is kept, as all are.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ends: set[End] = set()
        self._kept: dict[str, tuple[bytes, float | None]] = {}
        """Values by key, with the time of their end."""
        self._logs: dict[str, _Log] = {}
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(self._connected, str(path))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for end in list(self._ends):
            end.abort()

    def _connected(self) -> End:
        return End(self._heard, begun=self._greet, ended=self._ended)

    def _greet(self, end: End) -> None:
        now = self._clock()
        self._kept = {key: one for key, one in self._kept.items() if one[1] is None or one[1] > now}
        self._ends.add(end)
        self._send(end, encoded(Linked({key: value for key, (value, _) in self._kept.items()})))

    def _ended(self, end: End) -> None:
        self._ends.discard(end)
        for log in self._logs.values():
            log.followers.discard(end)

    def _heard(self, end: End, body: bytes) -> None:
        message = decode(body)
        match message:
            case Frame():
                sent = framed(body)
                for other in [other for other in self._ends if other is not end]:
                    self._send(other, sent)
            case Keep(key, value, seconds):
                self._kept[key] = value, None if seconds is None else self._clock() + seconds
            case Append(name):
                log, sent = self._log(name), framed(body)
                log.append(sent)
                for follower in list(log.followers):
                    self._send(follower, sent)
            case Follow(name):
                log = self._log(name)
                log.followers.add(end)
                for sent in log.entries:
                    self._send(end, sent)
            case Unfollow(name):
                self._log(name).followers.discard(end)
            case Linked():
                pass

    def _log(self, name: str) -> _Log:
        return self._logs.setdefault(name, _Log())

    def _send(self, end: End, sent: bytes) -> None:
        if not end.send(sent):
            end.abort()
