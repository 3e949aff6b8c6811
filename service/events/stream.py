"""One publisher's batches in order: what is next, what is missing, what is a repetition, what is a restart."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from time import monotonic, time

import msgspec
from xxhash import xxh3_64_intdigest

from service.events.wire import Batch, read_batch
from service.index.base import Rank

_REMEMBERED = 1024
_FIRST_CHECK = 1.0
_LAST_CHECKS = 30.0
_STRAGGLING_SECONDS = 30.0
"""For how long after a restart batches of the engine's former life are looked out for."""
_MANY_RESTARTS = 5
_RESTARTS_WITHIN = 60.0


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
    return Arrival(sequence, xxh3_64_intdigest(payload), read_batch(payload))


def unread_arrival(sequence: int, payload: bytes, rank: int, reason: str) -> Arrival:
    """A message of which nothing can be read but its place."""
    return Arrival(sequence, xxh3_64_intdigest(payload), Batch(None, (), rank, {reason: 1}))


_NEXT = Verdict.NEXT


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
    topic: bytes | None = None
    """The topic that its batches come under, once one came."""
    connection: int | None = None
    """Which of several connections of a bound socket the last batch came through."""
    voices: set[int | None] = field(default_factory=set)
    """All connections that batches came through and that are not lost."""

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
    catching_up: bool = False
    """Whether a replay brought something and its end did not come yet: there may be more."""
    hole: int = -1
    """The last number that a replay left out between others, for which it was asked again."""
    repeats: bool = False
    """Whether the replay socket ever repeated what was applied already, so that its silence says something."""
    waiting: deque[Arrival] = field(default_factory=deque)
    beyond_replay: bool = False
    """Whether a replay from the first batch on was tried in vain since the last loss."""
    check_at: float = 0.0
    """When to ask the replay socket whether the last batches were lost, which no gap shows; by the monotonic clock."""
    forgotten: bool = False
    _timestamp: float = 0.0
    _began_at: float = 0.0
    _stragglers_until: float = 0.0
    _first_digest: int | None = None
    _restarts: deque[float] = field(default_factory=lambda: deque(maxlen=_MANY_RESTARTS))
    _quiet: float = _FIRST_CHECK
    _digests: deque[int | None] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def judge(self, arrival: Arrival) -> Verdict:
        """Says what a batch is; changes nothing.

        A number below the expected one is a repetition when its content is what was applied under it, or when it was
        given up as lost and comes late. Any other content under a number that was used means a restarted engine. What
        was sent before a restart and comes soon after it counts no more.
        """
        sequence, sent_at = arrival.sequence, arrival.batch.timestamp
        if sequence == 0 and self.next and self.reconnected:
            return Verdict.RESTARTED
        if sent_at and sent_at < self._began_at and monotonic() < self._stragglers_until:
            return Verdict.REPEATED
        if sequence == self.next:
            return _NEXT
        if sequence > self.next:
            return Verdict.GAP
        digest = self._digest(arrival.sequence)
        if digest is not None:
            return Verdict.REPEATED if digest == arrival.digest else Verdict.RESTARTED
        # What was given up as lost was sent before what was applied since, and does not come that late.
        newer = (sent_at or 0.0) > self._timestamp
        too_late = arrival.sequence == 0 and self.next > len(self._digests)
        return Verdict.RESTARTED if newer or too_late else Verdict.REPEATED

    def knows(self, arrival: Arrival) -> bool:
        """Whether it is certain that this very batch was applied under its number."""
        return self._digest(arrival.sequence) == arrival.digest

    def contradicts(self, arrival: Arrival) -> bool:
        """Whether it is certain that another batch than this one was applied under its number."""
        return self._digest(arrival.sequence) not in (None, arrival.digest)

    def _digest(self, sequence: int) -> int | None:
        """The digest of the batch that was applied under a number; None when that is not known."""
        behind = self.next - sequence
        if 0 < behind <= len(self._digests):
            return self._digests[-behind]
        return self._first_digest if sequence == 0 and self.next else None

    def advance(self, arrival: Arrival) -> float:
        """Takes a batch as the last one applied; gives the time, in Unix seconds."""
        sequence, timestamp = arrival.sequence, arrival.batch.timestamp
        if sequence > self.next:
            self._digests.extend([None] * min(sequence - self.next, _REMEMBERED))
        self._digests.append(arrival.digest)
        self.next = sequence + 1
        self.reconnected = self.lost_at is not None
        self.last_event_at = now = time()
        if timestamp is not None:
            self._timestamp = timestamp
        if sequence == 0:
            self._began_at = timestamp or 0.0
            self._first_digest = arrival.digest
        return now

    def stir(self) -> None:
        """Something was heard: that it was the last is to be checked soon, and then ever more rarely.

        A first check is not put off, however much is heard: it shows what the replay socket's silence will mean.
        """
        self._quiet = _FIRST_CHECK
        if self.repeats or not self.check_at:
            self.check_at = monotonic() + self._quiet

    def checked(self, *, in_vain: bool) -> None:
        """The replay socket was asked. Where something was missing, more may be, so the next check comes soon."""
        self._quiet = min(2 * self._quiet, _LAST_CHECKS) if in_vain else _FIRST_CHECK
        self.check_at = monotonic() + self._quiet

    def restart(self, began_at: float | None = None) -> None:
        """Begins anew: nothing that was sent before `began_at` (Unix seconds, by the engine's clock) counts."""
        self.next = 0
        self.hole = -1
        self._began_at = began_at or 0.0
        self._timestamp = 0.0
        self._stragglers_until = monotonic() + _STRAGGLING_SECONDS
        self.inexact = None
        self.reconnected = False
        self._digests.clear()
        self._first_digest = None

    def restarted(self) -> None:
        """The engine began anew, as far as can be told."""
        self._restarts.append(monotonic())

    @property
    def restless(self) -> bool:
        """Whether it restarted more often than an engine can, as it seems to when two publish under one name."""
        return len(self._restarts) == _MANY_RESTARTS and monotonic() - self._restarts[0] < _RESTARTS_WITHIN
