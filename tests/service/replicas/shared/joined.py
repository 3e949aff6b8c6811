"""A carrier between replicas of one process, for tests of what is shared, whatever carries it."""

from __future__ import annotations

from service.replicas.shared.base import CarrierStatus, Receiver


class Between:
    """Joins the carriers that it makes."""

    def __init__(self) -> None:
        self.carriers: list[Joined] = []
        self.kept: dict[str, bytes] = {}
        self.logs: dict[str, list[bytes]] = {}

    def carrier(self) -> Joined:
        joined = Joined(self)
        self.carriers.append(joined)
        return joined


class Joined:
    """One end; while `is_cut`, nothing comes or goes."""

    def __init__(self, between: Between) -> None:
        self._between = between
        self._receiver: Receiver | None = None
        self._followed: set[str] = set()
        self.is_cut = False

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        receiver.linked(dict(self._between.kept))

    async def close(self) -> None:
        self.is_cut = True

    def mend(self) -> None:
        """Brings the connection back."""
        self.is_cut = False
        assert self._receiver is not None
        self._receiver.linked(dict(self._between.kept))

    def send(self, frame: bytes) -> None:
        if not self.is_cut:
            for other in self._between.carriers:
                if other._receiver is not None and not other.is_cut:
                    other._receiver.received(frame)

    def keep(self, key: str, value: bytes, seconds: float | None) -> None:
        if not self.is_cut:
            self._between.kept[key] = value

    def append(self, log: str, entry: bytes) -> None:
        if self.is_cut:
            return
        self._between.logs.setdefault(log, []).append(entry)
        for other in self._between.carriers:
            if log in other._followed and other._receiver is not None:
                other._receiver.appended(log, entry)

    def follow(self, log: str) -> None:
        self._followed.add(log)
        for entry in self._between.logs.get(log, ()):
            assert self._receiver is not None
            self._receiver.appended(log, entry)

    def unfollow(self, log: str) -> None:
        self._followed.discard(log)

    def status(self) -> CarrierStatus:
        return CarrierStatus()
