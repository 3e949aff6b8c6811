"""Sequence numbers of one stream: is a batch the next one, repeated, from before a restart, or after a gap?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from time import monotonic

from service.events.arrival import Arrival

_REMEMBERED = 1024
"""How many digests of applied batches are kept, to tell a repetition from a restart."""
_STRAGGLER_SECONDS = 30.0
"""How long after a restart batches of the engine's former life may still arrive."""


class BatchOrder(Enum):
    """Where a batch stands relative to those applied before it."""

    NEXT = auto()
    GAP = auto()
    """Batches before it are missing."""
    REPEATED = auto()
    OLD = auto()
    """It is dated before the engine's restart: a late batch of its former life, or its clock was set back."""
    RESTARTED = auto()


_NEXT = BatchOrder.NEXT  # a module global is found faster than a member of an enumeration


class SequenceLog:
    """The numbers and digests of the batches that were applied, since the engine's start.

    `next` is the number that the next batch must have. Batches dated before `began_at` (Unix seconds) may belong to a
    former life of the engine. `clock` gives monotonic seconds.
    """

    __slots__ = (
        "_clock",
        "_digests",
        "_first_digest",
        "_former",
        "_stragglers_until",
        "_timestamp",
        "began_at",
        "next",
    )

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.next = 0
        self._clock = clock
        self._digests: deque[int | None] = deque(maxlen=_REMEMBERED)
        self._first_digest: int | None = None
        self._former: frozenset[int | None] = frozenset()
        self._timestamp = 0.0
        self.began_at = 0.0
        self._stragglers_until = 0.0

    def classify(self, arrival: Arrival, *, reconnected: bool) -> BatchOrder:
        """Says what a live batch is; changes nothing. `reconnected`: the connection was lost since the last batch.

        A number below `next` is a repetition if its content equals what was applied under it, or if it was given up as
        lost and comes late. Any other content under a used number means that the engine restarted.
        """
        sequence, sent_at = arrival.sequence, arrival.batch.timestamp
        if sequence == 0 and self.next and reconnected:
            return BatchOrder.RESTARTED
        if sent_at and sent_at < self.began_at and self._clock() < self._stragglers_until:
            certain = arrival.digest in self._former or self.knows(arrival)
            return BatchOrder.REPEATED if certain else BatchOrder.OLD
        if sequence == self.next:
            return _NEXT
        if sequence > self.next:
            return BatchOrder.GAP
        digest = self._digest(sequence)
        if digest is not None:
            return BatchOrder.REPEATED if digest == arrival.digest else BatchOrder.RESTARTED
        # A batch that was given up as lost was sent before those applied since, and does not come that late.
        newer = (sent_at or 0.0) > self._timestamp
        too_late = sequence == 0 and self.next > len(self._digests)
        return BatchOrder.RESTARTED if newer or too_late else BatchOrder.REPEATED

    def knows(self, arrival: Arrival) -> bool:
        """Whether this very batch is known to have been applied under its number."""
        return self._digest(arrival.sequence) == arrival.digest

    def contradicts(self, arrival: Arrival) -> bool:
        """Whether another batch is known to have been applied under its number."""
        return self._digest(arrival.sequence) not in (None, arrival.digest)

    def _digest(self, sequence: int) -> int | None:
        behind = self.next - sequence
        if 0 < behind <= len(self._digests):
            return self._digests[-behind]
        return self._first_digest if sequence == 0 and self.next else None

    def append(self, arrival: Arrival) -> None:
        """Takes a batch as the last one applied; numbers before it that were not applied are given up."""
        sequence, timestamp = arrival.sequence, arrival.batch.timestamp
        if sequence > self.next:
            self._digests.extend([None] * min(sequence - self.next, _REMEMBERED))
        self._digests.append(arrival.digest)
        self.next = sequence + 1
        if timestamp is not None:
            self._timestamp = timestamp
            if timestamp < self.began_at:
                self.began_at = 0.0  # the engine's clock was set back: dates no longer tell its lives apart
        if sequence == 0:
            self.began_at = timestamp or 0.0
            self._first_digest = arrival.digest

    def restart(self, began_at: float | None) -> None:
        """The engine started anew, at that time (Unix seconds, its own clock) if it is known."""
        self._former = frozenset(self._digests)
        self.rewind()
        self.began_at = began_at or 0.0
        self._stragglers_until = self._clock() + _STRAGGLER_SECONDS

    def rewind(self) -> None:
        """The same engine's batches are to be applied again from number 0 on."""
        self.next = 0
        self._timestamp = self.began_at = 0.0
        self._digests.clear()
        self._first_digest = None
