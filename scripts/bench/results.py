"""What was measured, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure, in rounds taken in turn: `ours` and `theirs` hold one value per round, in `unit`; less is better.

    `target` is the ratio theirs / ours that is wanted; `peer` says what theirs is.
    """

    part: str
    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = field(default=())
    peer: str = ""
    target: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times more the peer takes: the median over rounds of theirs / ours."""
        if not self.theirs:
            return None
        return statistics.median(b / a for a, b in zip(self.ours, self.theirs, strict=True))


def show(measures: Sequence[Measure]) -> None:
    """Prints one table: medians, with the lowest and the highest round in brackets."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("part", "what", "unit"):
        table.add_column(head)
    for head in ("kvcache", "peer", "peer / kvcache", "wanted"):
        table.add_column(head, justify="right")
    for measure in measures:
        ratio = "" if measure.ratio is None else f"{measure.ratio:.2f}"
        wanted = "" if measure.target is None else f">= {measure.target:g}"
        peer = f"{_spread(measure.theirs)} {measure.peer}" if measure.theirs else ""
        table.add_row(measure.part, measure.what, measure.unit, _spread(measure.ours), peer, ratio, wanted)
    Console().print(table)


def write(measures: Sequence[Measure], file: Path) -> None:
    """Writes all rounds of all measures."""
    rows = [
        {
            "part": measure.part,
            "what": measure.what,
            "unit": measure.unit,
            "ours": list(measure.ours),
            "peer": measure.peer,
            "theirs": list(measure.theirs),
            "ratio": measure.ratio,
            "target": measure.target,
        }
        for measure in measures
    ]
    file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _spread(rounds: Sequence[float]) -> str:
    middle = statistics.median(rounds)
    return f"{middle:.3g}" if len(rounds) < 2 else f"{middle:.3g} ({min(rounds):.3g}-{max(rounds):.3g})"


def compared(
    part: str, what: str, unit: str, rounds: Mapping[str, Sequence[float]], target: float | None = None
) -> Measure:
    """Gives the measure of one figure from the rounds of each server, ours first."""
    (ours, *theirs) = rounds.items()
    peer, values = theirs[0] if theirs else ("", ())
    return Measure(part, what, unit, ours[1], values, peer, target)
