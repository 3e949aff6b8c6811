"""Tables of results: one for a terminal, and a shorter one in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.bench.results import Measure, Report

_WIDTH = 170


def show(report: Report) -> None:
    """Prints all rows: medians, with the lowest and the highest round in brackets."""
    console = Console()
    if not console.is_terminal:
        # Elsewhere rich would cut lines at 80 columns.
        console = Console(width=_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("unit")
    for head in ("kvcache", "peer", "ratio", "target"):
        table.add_column(head, justify="right")
    table.add_column("")
    for part, measures in groupby(report.measures, lambda measure: measure.part):
        table.add_section()
        table.add_row(f"[bold]{part}[/bold]")
        for measure in measures:
            peer = f"{_spread(measure.theirs)} {measure.peer}" if measure.theirs else ""
            noise = "" if measure.noise is None else f" ±{measure.noise:.0%}"
            table.add_row(
                f"  {measure.what}",
                measure.unit,
                _spread(measure.ours),
                peer,
                _ratio(measure) + noise,
                _target(measure),
                _verdict(measure),
            )
    console.print(table)
    console.print("ratio: peer / kvcache; for rates, kvcache / peer (above 1: kvcache is better)")
    console.print(report.machine)
    for left_out in report.left_out:
        console.print(f"left out: {left_out}")


def markdown(report: Report) -> str:
    """A table of the rows that have a target, in medians."""
    lines = ["| | kvcache | peer | ratio | target |", "| --- | --- | --- | --- | --- |"]
    for measure in report.measures:
        if measure.least_ratio is None and measure.most is None:
            continue
        ours = f"{_number(statistics.median(measure.ours))} {measure.unit}"
        theirs = (
            f"{_number(statistics.median(measure.theirs))} {measure.unit}, {measure.peer}" if measure.theirs else ""
        )
        cells = (f"{measure.part}: {measure.what}", ours, theirs, _ratio(measure), _target(measure))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(measure: Measure) -> str:
    return "" if measure.ratio is None else _number(measure.ratio)


def _target(measure: Measure) -> str:
    if measure.most is not None:
        return f"≤ {measure.most:g} {measure.unit}"
    return "" if measure.least_ratio is None else f"≥ {measure.least_ratio:g}"


def _verdict(measure: Measure) -> str:
    return "" if measure.met is None else "✓" if measure.met else "✗"


def _spread(rounds: Sequence[float]) -> str:
    middle = _number(statistics.median(rounds))
    return middle if len(rounds) < 2 else f"{middle} ({_number(min(rounds))}-{_number(max(rounds))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
