"""The contract of a carrier, which takes messages between the replicas of a fleet.

`SharedState` (state.py) is the same for all: tables, channels, logs and membership, held in this process's memory, so
that nobody ever waits to read them. A `Carrier` takes what a replica tells to the others: `Alone` (alone.py) carries
nothing, since there is nobody; others carry it over a Valkey, or over a socket of the machine.

All methods are called on the replica's event loop and return at once: a carrier sends in the background, as soon as
what was sent before is on its way, so that many frames share one round trip. A carrier without connection drops what
it cannot hold. Nothing is lost by that for good: whoever has the connection back is told by `linked`, and tells its
state again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

FORMAT = 1
"""The version of everything that replicas exchange. Replicas of different versions share nothing."""


class CarrierStatus(msgspec.Struct, frozen=True):
    """Whether a carrier reaches the other replicas. Counts are those since the start of this replica."""

    down_since: float | None = None
    """Unix seconds; None while it is up."""
    problem: str | None = None
    """Why it is down, and the remedy if there is one."""
    sent: int = 0
    """Frames and entries."""
    received: int = 0
    dropped: int = 0
    """Frames and entries that were told while it was down or too slow."""


def describe(status: CarrierStatus | None) -> str | UnsetType:
    """`up`, or `down since …` with the reason; unset for a replica that shares nothing."""
    if status is None:
        return UNSET
    if status.down_since is None:
        return "up"
    since = datetime.fromtimestamp(status.down_since, UTC).isoformat(timespec="seconds")
    return f"down since {since}" + (f": {status.problem}" if status.problem else "")


class Receiver(Protocol):
    """Takes what a carrier brings; `SharedState` is one."""

    def received(self, frame: bytes) -> None:
        """A frame of another replica; one's own do no harm. A malformed frame is counted and left out."""
        ...

    def linked(self, kept: Mapping[str, bytes]) -> None:
        """The connection is there, for the first time or again, with all values that are kept under `keep`.

        Frames that were sent before this call may be lost or may be received later; those sent after it are received
        after it. The receiver answers with `keep` and `send` for what the others do not know.
        """
        ...

    def appended(self, log: str, entry: bytes) -> None:
        """An entry of a log that is followed. After a loss of the connection, entries may be missing or come twice."""
        ...


class Carrier(Protocol):
    """Carries frames between the replicas of one fleet, keeps values for those that start later, and holds logs."""

    async def start(self, receiver: Receiver) -> None:
        """Connects in the background: returns at once, also if nobody can be reached. Called once."""
        ...

    async def close(self) -> None:
        """Sends what was given to `send` and `keep` if that takes no longer than a moment, and ends the connection."""
        ...

    def send(self, frame: bytes) -> None:
        """Brings a frame to `Receiver.received` of all other replicas, at most once, in the order of sending."""
        ...

    def keep(self, key: str, value: bytes, seconds: float | None) -> None:
        """Keeps a value under a key, instead of a former one, for so many seconds, or for good.

        It is only for `linked`: replicas that are connected learn of values through frames. A later call for the same
        key may come before the earlier one was written: only the last one counts.
        """
        ...

    def append(self, log: str, entry: bytes) -> None:
        """Adds an entry to the end of a log. Logs are bounded: the oldest entries are dropped."""
        ...

    def follow(self, log: str) -> None:
        """Brings the entries of a log to `Receiver.appended`, in order: those that are there, and those to come."""
        ...

    def unfollow(self, log: str) -> None: ...

    def status(self) -> CarrierStatus | None:
        """None if there is nobody to share anything with."""
        ...
