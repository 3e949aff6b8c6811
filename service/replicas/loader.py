"""Builds ranks from the records of a snapshot."""

from __future__ import annotations

from service.events.pool import EventPool
from service.events.stream_records import StreamRecord
from service.index.base import Index, Restorer
from service.index.snapshot_records import BlocksRecord, RankRecord
from service.replicas.snapshot_format import End, Header, Record, SnapshotError


class Loader:
    """Takes the records of a snapshot in their order; a rank counts for the pool once it is whole.

    `blocks` and `ranks` say how many are there so far.
    """

    def __init__(self, index: Index, pool: EventPool) -> None:
        self.blocks = 0
        self.ranks = 0
        self._index = index
        self._pool = pool
        self._stream: StreamRecord | None = None
        self._restorer: Restorer | None = None
        self._whole: list[StreamRecord] = []

    def take(self, record: Record) -> None:
        """Raises SnapshotError if the record does not fit."""
        try:
            if isinstance(record, StreamRecord):
                self._end_rank()
                self._stream = record
            elif isinstance(record, RankRecord) and self._stream is not None and self._restorer is None:
                self._restorer = self._index.restorer(self._stream.rank, record)
            elif self._restorer is not None and not isinstance(record, RankRecord | Header | End):
                self._restorer.add(record)
                self.blocks += len(record.keys) // 8 if isinstance(record, BlocksRecord) else 0
            else:
                raise SnapshotError(f"it has a {type(record).__name__} in a wrong place")
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise SnapshotError(f"its records do not fit each other ({error})") from error

    def _end_rank(self) -> None:
        stream, restorer, self._stream, self._restorer = self._stream, self._restorer, None, None
        if stream is not None and restorer is not None:
            restorer.finish()
            self._whole.append(stream)
            self.ranks += 1

    def finish(self) -> None:
        """Ends the last rank, and lets the streams of all ranks continue."""
        self._end_rank()
        self._hand_over()

    def keep_whole_ranks(self) -> None:
        """Drops the rank that is not whole, and lets the streams of the others continue."""
        self._drop_partial_rank()
        self._hand_over()

    def _hand_over(self) -> None:
        whole, self._whole = self._whole, []
        for stream in whole:
            self._pool.restore(stream)

    def drop(self) -> None:
        """Drops all that was loaded."""
        self._drop_partial_rank()
        for stream in self._whole:
            self._index.forget(stream.rank)
        self._whole = []
        self.blocks = self.ranks = 0

    def _drop_partial_rank(self) -> None:
        stream, restorer, self._stream, self._restorer = self._stream, self._restorer, None, None
        if stream is not None and restorer is not None:
            self._index.forget(stream.rank)
