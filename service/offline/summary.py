"""An analysis, in words and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from service.offline.analysis import Analysis
from service.offline.over_time import held_over_time, rate_over_time
from service.offline.table import duration, size, table
from service.offline.timeline import Series

_BARS = " ▁▂▃▄▅▆▇█"
_HELD_WIDTH, _RATES_WIDTH = 30, 56
_INCIDENTS_SHOWN = 10


def summary(analysis: Analysis) -> Iterator[str]:
    """Lines, none longer than 80 columns but for names of pods."""
    yield f"{analysis.messages:,} messages over {duration(analysis.seconds)}"
    yield (
        f"blocks: {analysis.stored:,} stored ({_per_second(analysis.stored_per_second)}), {analysis.evicted:,} evicted "
        f"({_per_second(analysis.evicted_per_second)}),"
    )
    yield f"        {analysis.cleared:,} lost in {analysis.clears:,} clears"
    if analysis.malformed_lines:
        numbers = ", ".join(map(str, analysis.first_malformed_lines[:_INCIDENTS_SHOWN]))
        yield f"malformed lines passed over: {analysis.malformed_lines:,} (line {numbers})"
    for part in (_pods(analysis), _lifetimes(analysis), _sharing(analysis), _prefixes(analysis), _incidents(analysis)):
        yield ""
        yield from part


def _per_second(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.1f}/s"


def _pods(analysis: Analysis) -> Iterator[str]:
    timed = analysis.seconds > 0
    rows = []
    for pod in analysis.pods:
        bars = (
            _drawn(held_over_time(analysis, Series(pod.pod, pod.tier), _HELD_WIDTH), pod.most_blocks) if timed else ""
        )
        rows.append((pod.pod, pod.tier, bars, pod.blocks, pod.most_blocks))
    yield from table(("pod", "tier", "blocks over time", "in the end", "at most"), rows, left=3)
    if timed:
        yield ""
        for name, counts in (
            ("stored", [span.stored for span in analysis.timeline]),
            ("evicted", [span.evicted for span in analysis.timeline]),
        ):
            rates = rate_over_time(analysis, counts, _RATES_WIDTH)
            yield f"{name:<9}{_drawn(rates, max(rates))} ≤ {max(rates):,.0f}/s"


def _drawn(values: Sequence[float], most: float) -> str:
    return "".join(_BARS[math.ceil(value * (len(_BARS) - 1) / most)] if most else _BARS[0] for value in values)


def _lifetimes(analysis: Analysis) -> Iterable[str]:
    times = analysis.lifetimes
    if not times.count:
        return ["No block was evicted, so how long blocks live is not known."]
    quantiles = ", ".join(f"{float(share):.0%} within {duration(time)}" for share, time in times.quantiles.items())
    return [f"{times.count:,} blocks lived {duration(times.mean)} on average:", f"  {quantiles}"]


def _sharing(analysis: Analysis) -> Iterator[str]:
    total = sum(analysis.blocks_by_number_of_pods.values())
    several = total - analysis.blocks_by_number_of_pods.get(1, 0)
    share = f" ({several / total:.1%})" if total else ""
    yield f"{total:,} different blocks are held, {several:,}{share} of them by more than one pod"
    yield from table(
        ("pod", "blocks", "held elsewhere, too"), [(pod.pod, pod.blocks, pod.shared) for pod in analysis.shared]
    )


def _prefixes(analysis: Analysis) -> Iterator[str]:
    yield "longest prefixes held"
    yield from table(
        ("pod", "rank", "tokens", "blocks", "memory", "of its own", "pods"),
        [
            (one.pod, one.rank, one.tokens, one.blocks, size(one.bytes), size(one.own_bytes), one.pods)
            for one in analysis.prefixes
        ],
    )


def _incidents(analysis: Analysis) -> Iterator[str]:
    if not analysis.incidents and not analysis.inexact:
        yield "No gap, no restart, nothing unreadable."
        return
    counts = (f"{kind}: {count:,}" for kind, count in analysis.incidents.items())
    yield "; ".join(counts) or "No gap, no restart, nothing unreadable, but:"
    for incident in analysis.first_incidents[:_INCIDENTS_SHOWN]:
        yield f"  line {incident.line}: {incident.pod}: {incident.what}"
    for rank, reason in analysis.inexact.items():
        yield f"  {rank} is inexact: {reason}"
