"""Charts of an analysis (matplotlib, extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from service.offline.analysis import Analysis
from service.offline.over_time import rate_over_time
from service.offline.timeline import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#666666")  # Okabe and Ito
_TIER_STYLES = {"gpu": "-", "cpu": "--", "storage": ":"}
_PODS_SHOWN = 12
_STEPS = 150


def plot(analysis: Analysis, folder: Path, suffix: str) -> list[Path]:
    """Writes charts as png or svg files, creating the folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (
        ("blocks", _blocks),
        ("rates", _rates),
        ("lifetimes", _lifetimes),
        ("sharing", _sharing),
        ("prefixes", _prefixes),
    ):
        figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, analysis)
        path = folder / f"{name}.{suffix}"
        figure.savefig(path)
        written.append(path)
    return written


def _blocks(axes: Axes, analysis: Analysis) -> None:
    shown = sorted(analysis.pods, key=lambda pod: -pod.most_blocks)[:_PODS_SHOWN]
    colours = {pod: _COLOURS[number % len(_COLOURS)] for number, pod in enumerate(dict.fromkeys(p.pod for p in shown))}
    for pod in shown:
        series = Series(pod.pod, pod.tier)
        held = [(span.held or {}).get(series, 0) for span in analysis.timeline]
        axes.step(
            _times(analysis),
            held,
            where="post",
            color=colours[pod.pod],
            linestyle=_TIER_STYLES[pod.tier],
            label=f"{pod.pod} {pod.tier}",
        )
    _label(axes, "Blocks held", "seconds", "blocks")
    if shown:
        axes.legend(frameon=False, fontsize="small")


def _rates(axes: Axes, analysis: Analysis) -> None:
    times = [analysis.seconds * step / _STEPS for step in range(_STEPS)]
    for name, counts, colour, sign in (
        ("stored", [span.stored for span in analysis.timeline], _COLOURS[0], 1),
        ("evicted", [span.evicted for span in analysis.timeline], _COLOURS[1], -1),
        ("cleared", [span.cleared for span in analysis.timeline], _COLOURS[7], -1),
    ):
        if any(counts):
            rates = [sign * rate for rate in rate_over_time(analysis, counts, _STEPS)]
            axes.fill_between(times, rates, step="post", color=colour, label=name, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    _label(axes, "Blocks stored (up), evicted and cleared (down)", "seconds", "blocks per second", low=None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, ncols=3)


def _lifetimes(axes: Axes, analysis: Analysis) -> None:
    histogram = analysis.lifetimes.histogram
    if not histogram:
        _note(axes, "No evictions")
    else:
        edges, counts = zip(*histogram, strict=True)
        axes.bar(edges, counts, width=[-0.085 * edge for edge in edges], align="edge", color=_COLOURS[0])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    _label(axes, "Time from store to eviction", "seconds", "blocks")


def _sharing(axes: Axes, analysis: Analysis) -> None:
    counts = analysis.blocks_by_number_of_pods
    if not counts:
        _note(axes, "No blocks")
    bars = axes.bar(list(counts), list(counts.values()), color=_COLOURS[2], width=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", fontsize="small")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, "Pods that hold the same block, at the end", "pods", "different blocks")


def _prefixes(axes: Axes, analysis: Analysis) -> None:
    longest = analysis.prefixes[::-1]
    if not longest:
        _note(axes, "No prefixes")
    positions = range(len(longest))
    own = [prefix.own_bytes / 2**20 for prefix in longest]
    shared = [(prefix.bytes - prefix.own_bytes) / 2**20 for prefix in longest]
    axes.barh(positions, shared, color=_COLOURS[4], label="shared with other prefixes of the pod")
    axes.barh(positions, own, left=shared, color=_COLOURS[0], label="in this prefix only")
    axes.set_yticks(positions, [f"{prefix.pod}, {prefix.tokens:,} tokens" for prefix in longest], fontsize="small")
    _label(axes, "Longest prefixes held at the end", "MiB of keys and values on the engine", "")
    if longest:
        axes.legend(frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1, 1))


def _times(analysis: Analysis) -> list[float]:
    """The start of each span, in seconds from the first."""
    first = analysis.timeline[0].start if analysis.timeline else 0.0
    return [span.start - first for span in analysis.timeline]


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def _label(axes: Axes, title: str, across: str, up: str, low: float | None = 0) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if up and low is not None:
        axes.set_ylim(bottom=low)
