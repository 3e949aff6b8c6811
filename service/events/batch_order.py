"""Classifies batches by sequence number: next, repeated, from before a restart, or after a gap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from time import monotonic

import msgspec

from service.events.arrival import Arrival

_REMEMBERED = 1024
"""Number of digests of applied batches that are kept to tell a repetition from a restart."""
_STRAGGLER_SECONDS = 30.0
"""Batches from before a restart may arrive this many seconds after it."""


class BatchOrder(Enum):
    """The position of a batch relative to the batches applied before it."""

    NEXT = auto()
    GAP = auto()
    """Earlier batches are missing."""
    REPEATED = auto()
    OLD = auto()
    """Its date is before the engine's restart: a late batch, or the engine's clock was set back."""
    RESTARTED = auto()


_NEXT = BatchOrder.NEXT  # a global lookup is faster than an enum attribute


class SequenceRecord(msgspec.Struct, array_like=True, gc=False):
    """A snapshot's record of a SequenceLog."""

    next: int
    digests: list[int | None]
    first_digest: int | None
    timestamp: float
    began_at: float


class SequenceLog:
    """Sequence numbers and digests of the batches applied since the engine's start.

    `next` is the number that the next batch must have. Batches dated before `began_at` (Unix seconds) may be from
    before a restart. `clock` gives monotonic seconds.
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
        """Classifies a live batch without changing state. `reconnected`: the connection was lost since the last batch.

        A number below `next` is a repetition if the content equals the applied batch, or if it was recorded as lost and
        arrives late. Different content under a used number means that the engine restarted.
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
        # A batch that was recorded as lost is older than the batches applied since.
        newer = (sent_at or 0.0) > self._timestamp
        too_late = sequence == 0 and self.next > len(self._digests)
        return BatchOrder.RESTARTED if newer or too_late else BatchOrder.REPEATED

    def knows(self, arrival: Arrival) -> bool:
        """Whether this batch is known to be applied under its number."""
        return self._digest(arrival.sequence) == arrival.digest

    def contradicts(self, arrival: Arrival) -> bool:
        """Whether a different batch is known to be applied under its number."""
        return self._digest(arrival.sequence) not in (None, arrival.digest)

    def _digest(self, sequence: int) -> int | None:
        behind = self.next - sequence
        if 0 < behind <= len(self._digests):
            return self._digests[-behind]
        return self._first_digest if sequence == 0 and self.next else None

    def append(self, sequence: int, digest: int, timestamp: float | None) -> None:
        """Records a batch as applied; skipped numbers before it count as lost."""
        if sequence > self.next:
            self._digests.extend([None] * min(sequence - self.next, _REMEMBERED))
        self._digests.append(digest)
        self.next = sequence + 1
        if timestamp is not None:
            self._timestamp = timestamp
            if timestamp < self.began_at:
                self.began_at = 0.0  # the engine's clock was set back: dates cannot separate its runs
        if sequence == 0:
            self.began_at = timestamp or 0.0
            self._first_digest = digest

    @property
    def is_verifiable(self) -> bool:
        """Whether the last batch can be told from another one under its number."""
        return bool(self._digests) and self._digests[-1] is not None

    def resume(self, sequence: int, taken_at: float) -> None:
        """Expects this number next, behind an engine's snapshot. `taken_at` is in Unix seconds, by the engine's clock.

        Earlier batches are not known. Those that arrive late are dated before the snapshot.
        """
        self.rewind()
        self.next = sequence
        self._digests.extend([None] * min(sequence, _REMEMBERED))
        self._timestamp = taken_at

    def record(self) -> SequenceRecord:
        """All but the batches from before a restart, which do not arrive through connections of another process."""
        return SequenceRecord(self.next, list(self._digests), self._first_digest, self._timestamp, self.began_at)

    def restore(self, record: SequenceRecord) -> None:
        """Continues behind the batches of a record."""
        self.next = record.next
        self._digests.extend(record.digests)
        self._first_digest = record.first_digest
        self._timestamp, self.began_at = record.timestamp, record.began_at

    def restart(self, began_at: float | None) -> None:
        """Starts at batch 0 of a restarted engine. `began_at` (Unix seconds, the engine's clock) is None if unknown."""
        self._former = frozenset(self._digests)
        self.rewind()
        self.began_at = began_at or 0.0
        self._stragglers_until = self._clock() + _STRAGGLER_SECONDS

    def rewind(self) -> None:
        """Expects batch 0 next, from the same engine."""
        self.next = 0
        self._timestamp = self.began_at = 0.0
        self._digests.clear()
        self._first_digest = None
