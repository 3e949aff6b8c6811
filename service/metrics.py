"""Prometheus' view: plain counters of index, events and API, read when they are scraped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from service.api.traffic import Traffic
from service.events.pool import EventPool
from service.index.memory import MemoryIndex
from service.index.statistics import Histogram


def registry(index: MemoryIndex, pool: EventPool, traffic: Traffic) -> CollectorRegistry:
    """All series of one service; those of a pod exist as long as the pod is known."""
    made = CollectorRegistry(auto_describe=False)
    made.register(ServiceCollector(index, pool, traffic))
    ProcessCollector(registry=made)
    return made


class ServiceCollector(Collector):
    """Reads; hot paths only ever add to plain integers."""

    def __init__(self, index: MemoryIndex, pool: EventPool, traffic: Traffic) -> None:
        self._index = index
        self._pool = pool
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        yield from self._of_index()
        yield from self._of_pods()
        yield from self._of_api()

    def _of_index(self) -> Iterator[Metric]:
        counted = self._index.statistics
        yield _counter("kvcache_index_admissions", "Blocks that a rank came to hold", counted.admissions)
        yield _counter("kvcache_index_evictions", "Blocks that a rank ceased to hold", counted.evictions)
        yield _counter("kvcache_index_displaced", "Blocks let go to keep to INDEX_MAX_BLOCKS", counted.displaced)
        yield _counter("kvcache_index_cleared", "Blocks of ranks that were cleared", counted.cleared)
        yield _counter("kvcache_index_unknown_parents", "Blocks left out: no known parent", counted.unknown_parents)
        yield _counter("kvcache_index_unknown_blocks", "Hashes that the index does not know", counted.unknown_blocks)
        yield GaugeMetricFamily("kvcache_index_blocks", "Blocks held, over all ranks and tiers", self._index.blocks)
        yield _counter("kvcache_index_lookup_requests", "Prompts looked up", counted.lookups)
        yield _counter("kvcache_index_lookup_hits", "Lookups that found a block", counted.lookup_hits)
        latency = HistogramMetricFamily("kvcache_index_lookup_latency_seconds", "Time of a lookup")
        _add(latency, (), counted.lookup_seconds)
        yield latency

    def _of_pods(self) -> Iterator[Metric]:
        labels = ("pod", "model", "rank")
        blocks = GaugeMetricFamily("kvcache_pod_blocks", "Blocks held by a rank", labels=(*labels, "tier"))
        for held in self._index.ranks():
            for tier, count in held.blocks_by_tier.items():
                blocks.add_metric(
                    (held.rank.pod, held.rank.model, str(held.rank.number), tier.name.lower()), float(count)
                )
        yield blocks

    def _of_api(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "kvcache_http_requests", "Requests answered", labels=("method", "route", "status")
        )
        for answered, count in self._traffic.answered.items():
            requests.add_metric((answered.method, answered.route, str(answered.status)), float(count))
        yield requests
        seconds = HistogramMetricFamily("kvcache_http_request_seconds", "From headers to answer", labels=("route",))
        for route, histogram in self._traffic.seconds.items():
            _add(seconds, (route,), histogram)
        yield seconds
        yield GaugeMetricFamily("kvcache_http_requests_in_flight", "Requests worked on", self._traffic.in_flight)


def _counter(name: str, meaning: str, count: int) -> Metric:
    return CounterMetricFamily(name, meaning, value=count)


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    bounds = (*map(str, histogram.bounds), "+Inf")
    buckets = list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
    family.add_metric(labels, buckets, histogram.total)
