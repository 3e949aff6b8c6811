"""How long blocks have been held, as coarsely as letting go of the oldest needs."""

from __future__ import annotations

from collections import deque


class Ages:
    """In which era a holder came by how many of its blocks. An era is a span of the index's admissions.

    Blocks that its engine removes are taken for its oldest, which engines remove first.
    """

    __slots__ = ("_eras", "_total")

    def __init__(self) -> None:
        self._eras: deque[tuple[int, int]] = deque()
        self._total = 0

    def add(self, era: int, blocks: int, held: int) -> None:
        """Takes note of blocks that came; with them, `held` are held."""
        if self._eras and self._eras[-1][0] == era:
            self._eras[-1] = era, self._eras[-1][1] + blocks
        else:
            self._eras.append((era, blocks))
        self._total += blocks
        if self._total > held:
            self._settle(held)

    def oldest(self, held: int) -> tuple[int, int] | None:
        """The era of the oldest of the `held` blocks, and how many are of it; None when none is held."""
        self._settle(held)
        return self._eras[0] if held else None

    def _settle(self, held: int) -> None:
        """Strikes off the oldest of what is no longer held."""
        while self._total > held:
            era, blocks = self._eras.popleft()
            kept = max(0, blocks - (self._total - held))
            self._total -= blocks - kept
            if kept:
                self._eras.appendleft((era, kept))
