"""What a case found: decisions by phase, further figures, and aims that were met or missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class Phase:
    """The turns of one part of a case."""

    title: str
    decisions: int = 0
    blind: int = 0
    """No pod was known to hold anything, although one held a prefix."""
    elsewhere: int = 0
    """A pod was known to hold a prefix, and another one was chosen, because it would answer sooner."""
    failed: int = 0
    cut: int = 0
    """Those of the failed ones whose connection led to a replica that was killed."""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    too_much: int = 0
    """Predictions above what the engine held or reused."""
    over_claims: int = 0
    """Those that were said to be exact."""
    seconds: list[float] = field(default_factory=list)
    """Of each answer."""

    @property
    def hit_rate(self) -> float:
        return self.reused_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def milliseconds(self, percent: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000 if ordered else 0.0


class Aim(NamedTuple):
    text: str
    is_met: bool
    found: str


@dataclass
class Outcome:
    name: str
    phases: list[Phase] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    aims: list[Aim] = field(default_factory=list)

    def aim(self, text: str, is_met: bool, found: object) -> None:
        self.aims.append(Aim(text, is_met, str(found)))

    def no_over_claims(self) -> None:
        found = sum(phase.over_claims for phase in self.phases)
        self.aim("no over-claim", found == 0, found)

    def none_failed(self) -> None:
        found = sum(phase.failed for phase in self.phases)
        self.aim("no request failed", found == 0, found)

    def steady_hit_rate(self, points: float = 1.0) -> None:
        """Whether the hit rate of each phase stays near that of the first."""
        first, *others = [phase.hit_rate * 100 for phase in self.phases]
        furthest = max((abs(rate - first) for rate in others), default=0.0)
        self.aim(f"hit rate moves less than {points:g} point", furthest < points, f"{furthest:.2f} points")


def show(outcome: Outcome) -> None:
    print(f"\n{outcome.name}")
    for name, value in outcome.facts.items():
        print(f"  {name}: {value}")
    if outcome.phases:
        heads = (
            "decisions",
            "blind",
            "elsewhere",
            "failed",
            "cut",
            "hit rate",
            "too much",
            "over-claims",
            "p50 ms",
            "p99 ms",
            "max",
        )
        print(f"  {'':22}" + "".join(f"{head:>11}" for head in heads))
    for one in outcome.phases:
        row: Sequence[str] = (
            *(str(count) for count in (one.decisions, one.blind, one.elsewhere, one.failed, one.cut)),
            f"{one.hit_rate:.3f}",
            *(str(count) for count in (one.too_much, one.over_claims)),
            *(f"{one.milliseconds(percent):.1f}" for percent in (50, 99, 100)),
        )
        print(f"  {one.title:22}" + "".join(f"{cell:>11}" for cell in row))
    for aim in outcome.aims:
        print(f"  {'met   ' if aim.is_met else 'MISSED'} {aim.text}: {aim.found}", flush=True)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A table of all cases: the hit rate of each phase, and the aims."""
    rows = ["| case | hit rate | blind | failed | over-claims | aims |", "| --- | --- | --- | --- | --- | --- |"]
    for one in outcomes:
        rates = ", ".join(f"{phase.hit_rate:.3f}" for phase in one.phases)
        decisions = sum(phase.decisions for phase in one.phases)
        counts = [sum(getattr(phase, name) for phase in one.phases) for name in ("blind", "failed", "over_claims")]
        aims = "; ".join(f"{aim.text}: {aim.found}{'' if aim.is_met else ' (missed)'}" for aim in one.aims)
        blind, failed, over_claims = counts
        rows.append(f"| {one.name} | {rates} | {blind} of {decisions} | {failed} | {over_claims} | {aims} |")
    return "\n".join(rows)
