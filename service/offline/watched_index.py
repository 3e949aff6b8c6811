"""An index that records its history."""

from __future__ import annotations

import sys

from service.index.base import Rank, Removed, Stored, Tier
from service.index.memory import MemoryIndex
from service.offline.residency import Residency
from service.offline.timeline import Timeline


class WatchedIndex(MemoryIndex):
    """An unbounded MemoryIndex with a timeline and the residency of each block."""

    def __init__(self) -> None:
        super().__init__(max_blocks=sys.maxsize)
        self.timeline = Timeline()
        self.residency = Residency()

    def advance(self, timestamp: float) -> None:
        """Sets the time of the events that follow, in Unix seconds."""
        self.timeline.advance(timestamp, self.ranks())

    def store(self, rank: Rank, stored: Stored) -> int:
        before = self.blocks
        unknown = super().store(rank, stored)
        self.timeline.span.stored += self.blocks - before
        self.residency.stored(rank, stored, self.timeline.now)
        return unknown

    def remove(self, rank: Rank, removed: Removed) -> int:
        unknown = 0
        for block_hash in removed.hashes:
            before = self.blocks
            unknown += super().remove(rank, Removed((block_hash,), removed.tier, removed.group))
            if self.blocks < before:  # not only one of several copies
                self.timeline.span.evicted += 1
                self.residency.removed(rank, block_hash, removed.tier, removed.group, self.timeline.now)
        return unknown

    def clear(self, rank: Rank) -> None:
        before = self.blocks
        super().clear(rank)
        self.timeline.span.cleared += before - self.blocks
        self.timeline.span.clears += 1
        self.residency.cleared(rank)

    def engine_cleared(self, rank: Rank, pool: Tier | None = None) -> bool:
        before = self.blocks
        empty = super().engine_cleared(rank, pool)
        self.timeline.span.cleared += before - self.blocks
        self.timeline.span.clears += 1
        if empty:
            self.residency.cleared(rank)
        else:
            self.residency.cleared_device(rank)
        return empty
