"""An analysis as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from service.contract.units import format_seconds, format_size
from service.offline.analysis import Analysis
from service.offline.over_time import held_over_time, rate_over_time
from service.offline.table import table
from service.offline.timeline import Series

_BARS = " ▁▂▃▄▅▆▇█"
_HELD_WIDTH, _RATES_WIDTH = 30, 56
_INCIDENTS_SHOWN = 10


def summary(analysis: Analysis) -> Iterator[str]:
    """Lines of at most 80 columns, unless pod names are long."""
    yield f"{analysis.messages:,} messages over {format_seconds(analysis.seconds)}"
    yield (
        f"blocks: {analysis.stored:,} stored ({_per_second(analysis.stored_per_second)}), {analysis.evicted:,} evicted "
        f"({_per_second(analysis.evicted_per_second)}),"
    )
    yield f"        {analysis.cleared:,} lost in {analysis.clears:,} clears"
    if analysis.malformed_lines:
        numbers = ", ".join(map(str, analysis.first_malformed_lines[:_INCIDENTS_SHOWN]))
        yield f"malformed lines skipped: {analysis.malformed_lines:,} (line {numbers})"
    for part in (_pods(analysis), _lifetimes(analysis), _sharing(analysis), _prefixes(analysis), _incidents(analysis)):
        yield ""
        yield from part


def _per_second(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.1f}/s"


def _pods(analysis: Analysis) -> Iterator[str]:
    timed = analysis.seconds > 0
    rows = []
    for pod in analysis.pods:
        bars = _bars(held_over_time(analysis, Series(pod.pod, pod.tier), _HELD_WIDTH), pod.most_blocks) if timed else ""
        rows.append((pod.pod, pod.tier, bars, pod.blocks, pod.most_blocks))
    yield from table(("pod", "tier", "blocks over time", "at the end", "maximum"), rows, left=3)
    if timed:
        yield ""
        for name, counts in (
            ("stored", [span.stored for span in analysis.timeline]),
            ("evicted", [span.evicted for span in analysis.timeline]),
        ):
            rates = rate_over_time(analysis, counts, _RATES_WIDTH)
            yield f"{name:<9}{_bars(rates, max(rates))} ≤ {max(rates):,.0f}/s"


def _bars(values: Sequence[float], peak: float) -> str:
    return "".join(_BARS[math.ceil(value * (len(_BARS) - 1) / peak)] if peak else _BARS[0] for value in values)


def _lifetimes(analysis: Analysis) -> Iterable[str]:
    times = analysis.lifetimes
    if not times.count:
        return ["No block was evicted: the lifetime of blocks is unknown."]
    quantiles = ", ".join(
        f"{float(share):.0%} within {format_seconds(time)}" for share, time in times.quantiles.items()
    )
    return [f"{times.count:,} blocks lived {format_seconds(times.mean)} on average:", f"  {quantiles}"]


def _sharing(analysis: Analysis) -> Iterator[str]:
    total = sum(analysis.blocks_by_number_of_pods.values())
    several = total - analysis.blocks_by_number_of_pods.get(1, 0)
    share = f" ({several / total:.1%})" if total else ""
    yield f"{total:,} different blocks, {several:,}{share} of them on more than one pod"
    yield from table(
        ("pod", "blocks", "on other pods too"), [(pod.pod, pod.blocks, pod.shared) for pod in analysis.shared]
    )


def _prefixes(analysis: Analysis) -> Iterator[str]:
    yield "longest prefixes held"
    yield from table(
        ("pod", "rank", "tokens", "blocks", "memory", "not shared", "pods"),
        [
            (one.pod, one.rank, one.tokens, one.blocks, format_size(one.bytes), format_size(one.own_bytes), one.pods)
            for one in analysis.prefixes
        ],
    )


def _incidents(analysis: Analysis) -> Iterator[str]:
    if not analysis.incidents and not analysis.inexact:
        yield "No gaps, restarts or unreadable messages."
        return
    counts = (f"{kind}: {count:,}" for kind, count in analysis.incidents.items())
    yield "; ".join(counts) or "No gaps, restarts or unreadable messages, but:"
    for incident in analysis.first_incidents[:_INCIDENTS_SHOWN]:
        yield f"  line {incident.line}: {incident.pod}: {incident.what}"
    for rank, reason in analysis.inexact.items():
        yield f"  {rank} is inexact: {reason}"
