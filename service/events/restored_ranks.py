"""Ranks whose blocks came from a snapshot, and whose engines were not heard since."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from service.events.stream_records import StreamRecord
from service.index.base import Index, Rank


class RestoredRanks:
    """Keeps the streams of a snapshot until their engines are heard, `seconds` of `clock` at most.

    The blocks are in the index, hidden; they are dropped with the record.
    """

    def __init__(self, index: Index, seconds: float, clock: Callable[[], float]) -> None:
        self._index = index
        self._seconds = seconds
        self._clock = clock
        self._records: dict[Rank, tuple[StreamRecord, float]] = {}

    def __iter__(self) -> Iterator[StreamRecord]:
        return iter([record for record, _ in self._records.values()])

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: StreamRecord) -> None:
        self._records[record.rank] = record, self._clock() + self._seconds

    def take(self, rank: Rank) -> StreamRecord | None:
        """Gives up a record to its stream, which has the blocks from then on; None for another rank."""
        record, _ = self._records.pop(rank, (None, 0.0))
        return record

    def holds(self, record: StreamRecord) -> bool:
        """Whether no stream took the record yet."""
        return self._records.get(record.rank, (None, 0.0))[0] is record

    def forget(self, pod: str) -> bool:
        """Drops the ranks of a pod; False if there is none."""
        return self._drop([rank for rank in self._records if rank.pod == pod])

    def expire(self) -> None:
        """Drops ranks that were not heard in time."""
        now = self._clock()
        self._drop([rank for rank, (_, until) in self._records.items() if now > until])

    def _drop(self, ranks: list[Rank]) -> bool:
        for rank in ranks:
            del self._records[rank]
            self._index.forget(rank)
        return bool(ranks)
