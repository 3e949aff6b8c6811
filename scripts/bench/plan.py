"""The amount of work of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` measurements of each row, after a warm-up round; `scale` is the share of the work of a round.

    Below a scale of 1, figures are rough.
    """

    rounds: int = 5
    scale: float = 1.0

    def seconds(self, whole: float) -> float:
        return whole * self.scale

    def count(self, whole: int) -> int:
        """A scaled number, at least 1."""
        return max(1, round(whole * self.scale))

    def turns(self) -> tuple[bool, ...]:
        """Yields for each round whether it counts."""
        return (False, *[True] * self.rounds)


QUICK = Plan(rounds=2, scale=0.1)
