"""Tables of values that all replicas know. The last writer of a value wins, whoever hears of it in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from time import monotonic, time
from typing import TypeAlias

import msgspec

Changed: TypeAlias = Callable[[str, bytes | None], None]
"""Called with a key and its value; None after it was removed or expired."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One value as replicas exchange it. `value` None tells that it was removed; `seconds` None that it stays."""

    table: str
    key: str
    stamp: int
    """A Lamport clock in Unix milliseconds: later writes have higher ones, also with a clock that is wrong."""
    writer: str
    value: bytes | None
    seconds: float | None

    @property
    def name(self) -> str:
        return f"{self.table}:{self.key}"


REMOVED_SECONDS = 3600.0
"""How long replicas remember that a value was removed, so that one that was cut off does not bring it back."""


class Tables:
    """The last record of each key. An expiring record ends here `seconds` after it was heard of, by this clock."""

    def __init__(self, clock: Callable[[], float] = monotonic, wall: Callable[[], float] = time) -> None:
        self._clock = clock
        self._wall = wall
        self._stamp = 0
        self._records: dict[str, tuple[Record, float]] = {}
        """By name, with the time of the end."""
        self._watchers: dict[str, list[Changed]] = {}
        self._next_end = inf

    def __iter__(self) -> Iterator[Record]:
        """All records, also those of removed values."""
        return iter([record for record, _ in self._records.values()])

    def values(self, table: str) -> Mapping[str, bytes]:
        return {one.key: one.value for one in self if one.table == table and one.value is not None}

    def write(self, table: str, key: str, value: bytes | None, writer: str, seconds: float | None) -> Record:
        """The record of a value that is written here."""
        self._stamp = max(self._stamp + 1, int(self._wall() * 1000))
        record = Record(table, key, self._stamp, writer, value, REMOVED_SECONDS if value is None else seconds)
        self.merge(record)
        return record

    def merge(self, record: Record) -> bool:
        """Takes a record unless a later one is known; whether it was taken. Watchers are told of a change."""
        known, _ = self._records.get(record.name, (None, 0.0))
        if known is not None and (known.stamp, known.writer) >= (record.stamp, record.writer):
            return False
        self._stamp = max(self._stamp, record.stamp)
        end = inf if record.seconds is None else self._clock() + record.seconds
        self._records[record.name] = record, end
        self._next_end = min(self._next_end, end)
        if record.value != (known.value if known is not None else None):
            self._tell(record, record.value)
        return True

    def latest(self, name: str) -> Record | None:
        known = self._records.get(name)
        return known[0] if known is not None else None

    def watch(self, table: str, changed: Changed) -> None:
        """Calls for each value of a table: for those that are there, and for each change."""
        self._watchers.setdefault(table, []).append(changed)
        for key, value in self.values(table).items():
            changed(key, value)

    def expire(self) -> None:
        """Drops what has expired; call it a few times per second."""
        now = self._clock()
        if now < self._next_end:
            return
        ended = [record for record, end in self._records.values() if end <= now]
        for record in ended:
            del self._records[record.name]
        self._next_end = min((end for _, end in self._records.values()), default=inf)
        for record in ended:
            if record.value is not None:
                self._tell(record, None)

    def _tell(self, record: Record, value: bytes | None) -> None:
        for changed in self._watchers.get(record.table, ()):
            changed(record.key, value)
