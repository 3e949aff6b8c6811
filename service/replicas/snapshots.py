"""Writes the index each SNAPSHOT_INTERVAL when it changed, and when the service stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from time import monotonic, time

import msgspec

from service.events.capture import RankCapture
from service.events.pool import EventPool
from service.replicas.snapshot_format import End, frame, frames, rank_records, start
from service.replicas.snapshot_place import SnapshotPlace

logger = logging.getLogger(__name__)
_AT_ONCE = 1 << 20
"""Bytes, about, that are handed to a thread or a client at once."""


class SnapshotStatistics(msgspec.Struct):
    """Of the snapshots that this process wrote. Times are Unix seconds."""

    written: int = 0
    failed: int = 0
    last_at: float = 0.0
    last_seconds: float = 0.0
    last_bytes: int = 0


class Snapshots:
    """Writes snapshots of a pool's ranks to each place, and gives the same to siblings."""

    def __init__(self, pool: EventPool, places: Iterable[SnapshotPlace], interval: float) -> None:
        """`interval` is in seconds."""
        self.statistics = SnapshotStatistics()
        self._pool = pool
        self._writers = [_Writer(pool, place, self.statistics) for place in places]
        self._interval = interval

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while self._writers:
            await asyncio.sleep(self._interval)
            try:
                await self.write()
            except Exception:  # the next one may succeed
                logger.exception("no snapshot")

    async def write(self) -> None:
        """Writes a snapshot wherever the last one differs; a failure is logged once, and leaves the last one."""
        for writer in self._writers:
            await writer.write()

    async def close(self) -> None:
        """Lets others write."""
        for writer in self._writers:
            await writer.close()

    async def stream(self) -> AsyncIterator[bytes]:
        """The same as the file would hold, in pieces."""
        yield start(time())
        ranks = 0
        async for some in _together(self._pool.captures()):
            ranks += len(some)
            data = await asyncio.to_thread(frames, (record for one in some for record in rank_records(*one)))
            some.clear()
            for at in range(0, len(data), _AT_ONCE):
                yield data[at : at + _AT_ONCE]
        yield frame(End(ranks))


class _Writer:
    """Writes to one place, when it may and when the index changed."""

    def __init__(self, pool: EventPool, place: SnapshotPlace, statistics: SnapshotStatistics) -> None:
        self._pool = pool
        self._place = place
        self._statistics = statistics
        self._written: object = None
        """The right to write and the pool's changes of the last snapshot."""
        self._problem: str | None = None
        self._writing = asyncio.Lock()

    async def write(self) -> None:
        async with self._writing:
            changes = self._pool.changes()
            try:
                if not (hold := await self._place.acquire()):
                    if not self._place.is_shared:
                        self._note("another process writes there")
                    return
                if (hold, changes) != self._written:
                    await self._write()
            except OSError as error:
                self._statistics.failed += 1
                self._note(error.strerror or str(error))
            else:
                self._written = hold, changes
                self._note(None)

    async def close(self) -> None:
        with suppress(OSError):
            await self._place.release()

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            logger.warning("no snapshot in %s: %s", self._place.name, problem)
        self._problem = problem

    async def _write(self) -> None:
        began = monotonic()
        writing = await self._place.begin()
        ranks = 0
        try:
            async for some in _together(self._pool.captures()):
                ranks += len(some)
                await writing.add(record for one in some for record in rank_records(*one))
                some.clear()
            await writing.finish(End(ranks))
        except BaseException:
            await writing.abandon()
            raise
        statistics = self._statistics
        statistics.written += 1
        statistics.last_at, statistics.last_bytes = time(), writing.size
        statistics.last_seconds = monotonic() - began
        logger.debug("snapshot of %d ranks, %d bytes, in %.2f s", ranks, writing.size, statistics.last_seconds)


async def _together(captures: AsyncIterator[RankCapture]) -> AsyncIterator[list[RankCapture]]:
    """Several small ranks at once: a thread's turn takes longer than to copy one."""
    some: list[RankCapture] = []
    size = 0
    async for one in captures:
        some.append(one)
        size += _size(one)
        if size >= _AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


_RANK_BYTES = 16_384


def _size(one: RankCapture) -> int:
    _, _, blocks = one
    return _RANK_BYTES + sum(len(getattr(record, "keys", b"")) * 2 for record in blocks)
