"""The carrier of a replica that is the only one: there is nobody to tell anything."""

from __future__ import annotations

from service.replicas.shared.base import Receiver


class Alone:
    """Carries nothing. What one replica tells, it knows already."""

    async def start(self, receiver: Receiver) -> None:
        receiver.linked({})

    async def close(self) -> None: ...

    def send(self, frame: bytes) -> None: ...

    def keep(self, key: str, value: bytes, seconds: float | None) -> None: ...

    def append(self, log: str, entry: bytes) -> None: ...

    def follow(self, log: str) -> None: ...

    def unfollow(self, log: str) -> None: ...

    def status(self) -> None:
        return None
