"""What happened when, in a bounded number of equal spans of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from service.index.base import RankBlocks

_MOST_SPANS = 480
_FIRST_WIDTH = 0.01


class Series(NamedTuple):
    """Whose blocks a count is of."""

    pod: str
    tier: str


class Span(msgspec.Struct):
    """What happened from `start` (Unix seconds) on, and what was held in the end, by (pod, tier)."""

    start: float
    stored: int = 0
    evicted: int = 0
    cleared: int = 0
    clears: int = 0
    held: dict[Series, int] | None = None


class Timeline:
    """Spans of equal width, which doubles whenever they become too many: memory does not grow with the recording."""

    def __init__(self) -> None:
        self.width = _FIRST_WIDTH
        self.now = 0.0
        self._spans: list[Span] = []
        self._empty = Span(0.0)

    @property
    def span(self) -> Span:
        """The span of the present moment, to be counted in."""
        return self._spans[-1] if self._spans else self._empty

    def move(self, timestamp: float, ranks: Iterable[RankBlocks]) -> None:
        """Goes on to a moment; `ranks` says what is held before it. A moment in the past is the present one."""
        self.now = max(timestamp, self.now)
        if not self._spans:
            self._spans.append(self._empty)
            self._empty.start = self.now
        if self.now < self._spans[-1].start + self.width:
            return
        self._spans[-1].held = held_blocks(ranks)
        first = self._spans[0].start
        while self.now >= first + _MOST_SPANS * self.width:
            self._halve()
        place = int((self.now - first) / self.width)
        if first + place * self.width > self._spans[-1].start:
            self._spans.append(Span(first + place * self.width))

    def finish(self, ranks: Iterable[RankBlocks]) -> list[Span]:
        """All spans in which something happened, the last with what is held in the end."""
        if self._spans:
            self._spans[-1].held = held_blocks(ranks)
        return self._spans

    def _halve(self) -> None:
        first, self.width = self._spans[0].start, self.width * 2
        merged: dict[int, Span] = {}
        for span in self._spans:
            place = int((span.start - first) / self.width + 1e-9)
            into = merged.get(place)
            if into is None:
                span.start = first + place * self.width
                merged[place] = span
            else:
                into.stored += span.stored
                into.evicted += span.evicted
                into.cleared += span.cleared
                into.clears += span.clears
                into.held = span.held
        self._spans = list(merged.values())


def held_blocks(ranks: Iterable[RankBlocks]) -> dict[Series, int]:
    """The blocks of each pod on each tier, its ranks taken together."""
    held: dict[Series, int] = {}
    for rank in ranks:
        for tier, count in rank.blocks_by_tier.items():
            if count:
                series = Series(rank.rank.pod, tier.name.lower())
                held[series] = held.get(series, 0) + count
    return held


def highest(spans: Iterable[Span]) -> Mapping[Series, int]:
    """The most blocks that each pod held on each tier at the end of a span."""
    most: dict[Series, int] = {}
    for span in spans:
        for series, count in (span.held or {}).items():
            most[series] = max(most.get(series, 0), count)
    return most
