"""The ages of a group's blocks: the number of blocks per era."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class BlockAges:
    """Counts a group's blocks per era. An era is a number of admissions to the index, so that ages compare.

    Removed blocks count as the oldest, since engines evict the oldest first.
    """

    __slots__ = ("_eras", "_newest", "_newest_era", "_total")

    def __init__(self) -> None:
        self._eras: deque[tuple[int, int]] = deque()
        """(era, blocks) of all but the newest era, oldest first."""
        self._newest_era = 0
        self._newest = 0
        self._total = 0

    def add(self, era: int, blocks: int, held: Sequence[int]) -> None:
        """Counts new blocks; `held` is the number held per tier, the new ones included."""
        if era != self._newest_era:
            self._settle(sum(held) - blocks)
            if self._newest:
                self._eras.append((self._newest_era, self._newest))
            self._newest_era, self._newest = era, 0
        self._newest += blocks
        self._total += blocks

    def oldest(self, held: int) -> tuple[int, int] | None:
        """(era, blocks) of the oldest of the `held` blocks; None when none is held."""
        self._settle(held)
        if not held:
            return None
        return self._eras[0] if self._eras else (self._newest_era, self._newest)

    def counted(self) -> list[tuple[int, int]]:
        """(era, blocks) of all eras, oldest first."""
        return [*self._eras, (self._newest_era, self._newest)]

    def restore(self, counted: Sequence[tuple[int, int]]) -> None:
        """Takes over what `counted` gave for the same blocks."""
        *eras, (self._newest_era, self._newest) = counted
        self._eras = deque(eras)
        self._total = sum(blocks for _, blocks in counted)

    def _settle(self, held: int) -> None:
        """Subtracts blocks that are no longer held from the oldest eras."""
        gone = self._total - held
        self._total = held
        while gone > 0 and self._eras:
            era, blocks = self._eras.popleft()
            if blocks > gone:
                self._eras.appendleft((era, blocks - gone))
            gone -= blocks
        if gone > 0:
            self._newest -= gone
