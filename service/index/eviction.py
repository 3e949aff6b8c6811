"""How long blocks have been held, as coarsely as letting go of the oldest needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Ages:
    """In which era a holder came by how many of its blocks. An era is a span of the index's admissions.

    Blocks that its engine removes are taken for its oldest, which engines remove first.
    """

    __slots__ = ("_eras", "_newest", "_newest_era", "_total")

    def __init__(self) -> None:
        self._eras: deque[tuple[int, int]] = deque()
        """Those before the newest, with their blocks."""
        self._newest_era = 0
        self._newest = 0
        self._total = 0

    def add(self, era: int, blocks: int, held: Sequence[int]) -> None:
        """Takes note of blocks that came; with them, `held` are held on the tiers."""
        if era != self._newest_era:
            self._settle(sum(held) - blocks)
            if self._newest:
                self._eras.append((self._newest_era, self._newest))
            self._newest_era, self._newest = era, 0
        self._newest += blocks
        self._total += blocks

    def oldest(self, held: int) -> tuple[int, int] | None:
        """The era of the oldest of the `held` blocks, and how many are of it; None when none is held."""
        self._settle(held)
        if not held:
            return None
        return self._eras[0] if self._eras else (self._newest_era, self._newest)

    def _settle(self, held: int) -> None:
        """Strikes off the oldest of what is no longer held."""
        gone = self._total - held
        self._total = held
        while gone > 0 and self._eras:
            era, blocks = self._eras.popleft()
            if blocks > gone:
                self._eras.appendleft((era, blocks - gone))
            gone -= blocks
        if gone > 0:
            self._newest -= gone
