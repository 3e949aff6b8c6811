"""Captures ranks for a snapshot: the blocks of each, and the number of the last batch in them, at one moment.

A large rank is read in slices; its batches wait meanwhile, so that blocks and number belong together. To read it
again when it changed would never end for a busy engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from time import monotonic
from typing import TypeAlias

from service.events.index_sink import IndexSink
from service.events.restored_ranks import RestoredRanks
from service.events.stream_records import StreamRecord
from service.events.streams import Stream
from service.index.base import Index
from service.index.snapshot_records import BlockRecord, RankRecord

logger = logging.getLogger(__name__)

RankCapture: TypeAlias = "tuple[StreamRecord, RankRecord, Sequence[BlockRecord]]"
_TURN_SECONDS = 0.002
_ATTEMPTS = 3
_BEHIND_SECONDS = 2.0
_PAUSE = 0.02


class Turns:
    """Lets the event loop run other tasks every few milliseconds."""

    def __init__(self) -> None:
        self._began = monotonic()

    async def pause(self) -> None:
        if monotonic() - self._began > _TURN_SECONDS:
            await asyncio.sleep(0)
            self._began = monotonic()


async def captures(
    streams: Iterable[Stream[IndexSink]], restored: RestoredRanks, index: Index
) -> AsyncIterator[RankCapture]:
    """All ranks that have blocks, one by one; a copy of one rank is in memory at a time.

    Leaves out a rank that cannot be told apart from another engine's, and one that large batches keep changing.
    """
    turns = Turns()
    for record in restored:
        captured = await _read(record, index, turns)
        if captured is not None and restored.holds(record):
            yield captured
        await turns.pause()
    behind = list(streams)
    until = monotonic() + _BEHIND_SECONDS
    while behind:
        later = []
        for stream in behind:
            if stream.removed:
                continue
            if not stream.sink.hold():
                later.append(stream)
                continue
            try:
                captured = await _of_stream(stream, index, turns)
            finally:
                stream.sink.release()
            if captured is not None:
                yield captured
            await turns.pause()
        if later and monotonic() > until:
            logger.info("%d ranks are left out of the snapshot: large batches are being applied", len(later))
            return
        if later:
            await asyncio.sleep(_PAUSE)
        behind = later


async def _of_stream(stream: Stream[IndexSink], index: Index, turns: Turns) -> RankCapture | None:
    """Reads a rank whose sink is held; again if it was cleared meanwhile, which does not wait."""
    for _ in range(_ATTEMPTS):
        order, changes = stream.sequencer.record(), stream.sink.changes
        if order is None:
            return None
        record = StreamRecord(
            *stream.rank,
            stream.subscription.endpoint.address,
            stream.topic,
            stream.peer,
            stream.sink.last_event_at,
            stream.sink.loss,
            order,
        )
        captured = await _read(record, index, turns)
        if stream.removed:
            return None
        if stream.sink.changes == changes:
            return captured
    return None


async def _read(record: StreamRecord, index: Index, turns: Turns) -> RankCapture | None:
    first: RankRecord | None = None
    blocks: list[BlockRecord] = []
    try:
        for one in index.capture(record.rank):
            if isinstance(one, RankRecord):
                first = one
            else:
                blocks.append(one)
            await turns.pause()
    except RuntimeError:  # blocks were evicted to keep to INDEX_MAX_BLOCKS
        logger.debug("%s changed while it was read for a snapshot", record.rank, exc_info=True)
        return None
    return None if first is None else (record, first, blocks)
