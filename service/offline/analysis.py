"""Statistics of the caches in a recording."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from service.events.recording import Recording
from service.offline.feed import Feed
from service.offline.incidents import Incident, Incidents
from service.offline.timeline import Span, held_blocks, peak_by_series
from service.offline.watched_index import WatchedIndex

_QUANTILES = (0.1, 0.5, 0.9, 0.99)


class PodAnalysis(msgspec.Struct):
    """One pod on one tier: blocks held at the end, and their maximum."""

    pod: str
    tier: str
    blocks: int
    most_blocks: int


class Lifetimes(msgspec.Struct):
    """Seconds from store to eviction of blocks; quantiles are at most 10 % too high."""

    count: int
    mean: float | None
    quantiles: dict[str, float | None]
    histogram: list[tuple[float, int]]


class Shared(msgspec.Struct):
    """The number of distinct blocks of a pod, and how many of them other pods hold too."""

    pod: str
    blocks: int
    shared: int


class PrefixAnalysis(msgspec.Struct):
    """One of the longest prefixes held at the end; `own_blocks` are in no other prefix of its rank.

    `bytes` is the memory of its keys and values on an engine, from `bytes_per_token`.
    """

    pod: str
    rank: int
    lora_name: str | None
    tokens: int
    blocks: int
    own_blocks: int
    pods: int
    bytes: int
    own_bytes: int


class Analysis(msgspec.Struct, tag="analysis", tag_field="kind"):
    """The whole analysis. Rates are per second of recorded time; spans of `timeline` are `span_seconds` wide."""

    messages: int
    malformed_lines: int
    first_malformed_lines: list[int]
    seconds: float
    stored: int
    evicted: int
    cleared: int
    clears: int
    stored_per_second: float | None
    evicted_per_second: float | None
    pods: list[PodAnalysis]
    lifetimes: Lifetimes
    blocks_by_number_of_pods: dict[int, int]
    shared: list[Shared]
    prefixes: list[PrefixAnalysis]
    incidents: dict[str, int]
    first_incidents: list[Incident]
    inexact: dict[str, str]
    span_seconds: float
    timeline: list[Span]


def analyse(recording: Recording, model: str, *, prefixes: int, bytes_per_token: int) -> Analysis:
    """Reads a whole recording. Memory grows with the number of held blocks, not with the length of the recording."""
    index = WatchedIndex()
    feed = Feed(index, model, index.advance)
    incidents = Incidents(feed.statistics)
    for message in recording:
        feed.apply(message)
        incidents.update(recording.line, message.pod)
    spans = index.timeline.finish(index.ranks())
    seconds = index.timeline.now - spans[0].start if spans else 0.0
    stored, evicted = sum(span.stored for span in spans), sum(span.evicted for span in spans)
    return Analysis(
        messages=feed.statistics.messages_received,
        malformed_lines=recording.malformed,
        first_malformed_lines=recording.malformed_lines,
        seconds=round(seconds, 3),
        stored=stored,
        evicted=evicted,
        cleared=sum(span.cleared for span in spans),
        clears=sum(span.clears for span in spans),
        stored_per_second=_rate(stored, seconds),
        evicted_per_second=_rate(evicted, seconds),
        pods=_pods(index, spans),
        lifetimes=_lifetimes(index),
        blocks_by_number_of_pods=index.residency.sharing(),
        shared=[Shared(pod, *counts) for pod, counts in index.residency.shared_blocks().items()],
        prefixes=_prefixes(index, prefixes, bytes_per_token),
        incidents=dict(incidents.counts),
        first_incidents=incidents.listed,
        inexact=_inexact(feed),
        span_seconds=index.timeline.width,
        timeline=spans,
    )


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 3) if seconds else None


def _pods(index: WatchedIndex, spans: Sequence[Span]) -> list[PodAnalysis]:
    held = held_blocks(index.ranks())
    return [
        PodAnalysis(series.pod, series.tier, held.get(series, 0), most)
        for series, most in sorted(peak_by_series(spans).items())
    ]


def _lifetimes(index: WatchedIndex) -> Lifetimes:
    times = index.residency.lifetimes
    quantiles = {f"{share:g}": times.quantile(share) for share in _QUANTILES}
    return Lifetimes(times.count, times.mean, quantiles, times.histogram())


def _prefixes(index: WatchedIndex, count: int, bytes_per_token: int) -> list[PrefixAnalysis]:
    return [
        PrefixAnalysis(
            pod=prefix.rank.pod,
            rank=prefix.rank.number,
            lora_name=prefix.lora_name,
            tokens=prefix.tokens,
            blocks=prefix.blocks,
            own_blocks=prefix.own_blocks,
            pods=prefix.pods,
            bytes=prefix.tokens * bytes_per_token,
            own_bytes=prefix.tokens // prefix.blocks * prefix.own_blocks * bytes_per_token,
        )
        for prefix in index.residency.longest_prefixes(count)
    ]


def _inexact(feed: Feed) -> dict[str, str]:
    return {f"{rank.pod} rank {rank.number}": reason for rank, reason in feed.inexact().items()}
