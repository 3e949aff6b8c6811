"""Where snapshots are kept, in a file (snapshot_file.py) or in the store that replicas share (snapshot_store.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from service.replicas.snapshot_format import Record


class SnapshotPlace(Protocol):
    """Holds the last snapshot that was written whole. One process at a time writes, any reads.

    All methods raise OSError, with a text for people, if the place cannot be reached or is full.
    """

    @property
    def name(self) -> str:
        """As it is named in the log."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether it belongs to several replicas, one of which writes for all."""
        ...

    async def acquire(self) -> int:
        """Takes or keeps the right to write; 0 if another process has it.

        Otherwise a number that grows when the right was lost and taken again: what is there may be another's by then.
        To be called at least each interval by whoever wants to keep it.
        """
        ...

    async def release(self) -> None:
        """Gives the right to write back."""
        ...

    async def begin(self) -> Writing:
        """Starts a snapshot, beside the last one."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the last snapshot, from its start; nothing if there is none. Also raises SnapshotError."""
        ...


class Writing(Protocol):
    """A snapshot that is being written, and has its first record. `size` is in bytes."""

    size: int

    async def add(self, records: Iterable[Record]) -> None: ...

    async def finish(self, end: Record) -> None:
        """Puts the snapshot in the place of the last one."""
        ...

    async def abandon(self) -> None:
        """Removes what was written; raises nothing."""
        ...
