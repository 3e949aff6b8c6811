"""How much a run does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` is how often each figure is taken, after one round of warm-up that does not count.

    `scale` is the share of the work that a round does, from 0 to 1: below 1 the figures are only a glimpse.
    """

    rounds: int = 5
    scale: float = 1.0

    def seconds(self, whole: float) -> float:
        """How long to send requests for."""
        return whole * self.scale

    def count(self, whole: int) -> int:
        """How many of something."""
        return max(1, round(whole * self.scale))

    def turns(self) -> tuple[bool, ...]:
        """Whether a round counts, for each in turn."""
        return (False, *[True] * self.rounds)


QUICK = Plan(rounds=2, scale=0.1)
