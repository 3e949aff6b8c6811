"""One publisher's batches in order: what is next, what is missing, what is a repetition, what is a restart."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from time import monotonic, time

import msgspec
import xxhash

from service.events.wire import Batch, read_batch
from service.index.base import Rank

_REMEMBERED = 1024
_FIRST_CHECK = 1.0
_LAST_CHECKS = 30.0


class Verdict(Enum):
    """What a batch is, seen from what came before it."""

    NEXT = auto()
    GAP = auto()
    REPEATED = auto()
    RESTARTED = auto()


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A batch as it came, live or replayed; `digest` tells its payload from others."""

    sequence: int
    digest: int
    batch: Batch


def arrival(sequence: int, payload: bytes) -> Arrival:
    """Reads a message's payload. Raises WireError."""
    return Arrival(sequence, payload_digest(payload), read_batch(payload))


def payload_digest(payload: bytes) -> int:
    return xxhash.xxh3_64_intdigest(payload)


@dataclass(frozen=True, slots=True)
class StreamState:
    """What `/pods` says about where a rank's blocks come from. Times are Unix seconds."""

    rank: Rank
    endpoint: str
    last_sequence: int | None
    last_event_at: float | None
    exact: bool
    inexact_reason: str | None
    connected: bool


@dataclass(slots=True, eq=False)
class Stream:
    """The order of one rank's batches. Holds no blocks: those are in the index."""

    rank: Rank
    endpoint: str
    replay: str | None
    """Address of the engine's replay socket."""
    connection: int | None = None
    """Which of several connections of a bound socket the last batch came through."""

    next: int = 0
    last_event_at: float | None = None
    inexact: str | None = None
    lost_at: float | None = None
    """When the connection was lost, by the monotonic clock; None while it is there."""
    reconnected: bool = False
    """Whether the connection was lost since the last batch: something may be missing, and a sequence from 0 is a
    restart for certain."""
    asking: bool = False
    """Whether a replay is under way; live batches that are not next wait in `waiting` meanwhile."""
    again: bool = False
    """Whether to ask once more: the connection came back after the replay under way was asked for."""
    waiting: deque[Arrival] = field(default_factory=deque)
    beyond_replay: bool = False
    """Whether a replay from the first batch on was tried in vain since the last loss."""
    check_at: float = 0.0
    """When to ask the replay socket whether the last batches were lost, which no gap shows; by the monotonic clock."""
    forgotten: bool = False
    _timestamp: float = 0.0
    _began_at: float = 0.0
    _quiet: float = _FIRST_CHECK
    _digests: deque[int | None] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def judge(self, arrival: Arrival) -> Verdict:
        """Says what a batch is; changes nothing.

        A number below the expected one is a repetition when its content is what was applied under it, or when it was
        given up as lost and comes late. Any other content under a number that was used means a restarted engine. What
        was sent before a restart and comes after it counts no more.
        """
        if (arrival.batch.timestamp or self._began_at) < self._began_at:
            return Verdict.REPEATED
        if arrival.sequence == self.next:
            return Verdict.NEXT
        if arrival.sequence > self.next:
            return Verdict.GAP
        if arrival.sequence == 0 and self.reconnected:
            return Verdict.RESTARTED
        behind = self.next - arrival.sequence
        if behind <= len(self._digests):
            digest = self._digests[-behind]
            return Verdict.REPEATED if digest in (None, arrival.digest) else Verdict.RESTARTED
        newer = (arrival.batch.timestamp or 0.0) > self._timestamp
        return Verdict.RESTARTED if newer else Verdict.REPEATED

    def knows(self, arrival: Arrival) -> bool:
        """Whether it is certain that this very batch was applied under its number."""
        behind = self.next - arrival.sequence
        return 0 < behind <= len(self._digests) and self._digests[-behind] == arrival.digest

    def contradicts(self, arrival: Arrival) -> bool:
        """Whether it is certain that another batch than this one was applied under its number."""
        behind = self.next - arrival.sequence
        return 0 < behind <= len(self._digests) and self._digests[-behind] not in (None, arrival.digest)

    def advance(self, arrival: Arrival) -> None:
        """Takes a batch as the last one applied."""
        self._digests.extend([None] * min(arrival.sequence - self.next, _REMEMBERED))
        self._digests.append(arrival.digest)
        self.next = arrival.sequence + 1
        self.reconnected = False
        self.last_event_at = time()
        self._timestamp = arrival.batch.timestamp or 0.0
        if arrival.sequence == 0:
            self._began_at = self._timestamp

    def stir(self) -> None:
        """Something was heard: that it was the last is to be checked soon, and then ever more rarely."""
        self._quiet = _FIRST_CHECK
        self.check_at = monotonic() + self._quiet

    def checked(self) -> None:
        """The replay socket was asked."""
        self._quiet = min(2 * self._quiet, _LAST_CHECKS)
        self.check_at = monotonic() + self._quiet

    def restart(self, began_at: float | None = None) -> None:
        """Begins anew: nothing that was sent before `began_at` (Unix seconds, by the engine's clock) counts."""
        self.next = 0
        self._began_at = began_at or 0.0
        self.inexact = None
        self.reconnected = False
        self._digests.clear()
