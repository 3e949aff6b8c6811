"""Prometheus metrics: reads the plain counters of index, events and API at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from service.api.admission import Admission
from service.api.traffic import Traffic
from service.events.pool import EventPool
from service.fleet.discovery.discovery import Discovery
from service.fleet.registry import Registry
from service.gateway.statistics import GatewayStatistics
from service.histogram import Histogram
from service.index.base import Index, Rank
from service.log import LineWriter
from service.native.backend import COMPILED
from service.replicas.shared.state import SharedState
from service.replicas.snapshots import SnapshotStatistics
from service.routing.accuracy import Accuracy

_Family = TypeVar("_Family", CounterMetricFamily, GaugeMetricFamily)

_RANK = ("pod", "model", "rank")


def registry(*parts: Collector) -> CollectorRegistry:
    """All series of the service; the series of a pod end when the pod is forgotten."""
    collectors = CollectorRegistry(auto_describe=False)
    for part in parts:
        collectors.register(part)
    ProcessCollector(registry=collectors)
    return collectors


class ServiceCollector(Collector):
    """Reads counters only at scrape time, so that scraping is the only cost."""

    def __init__(
        self, index: Index, pool: EventPool, traffic: Traffic, admission: Admission, output: LineWriter
    ) -> None:
        self._index = index
        self._pool = pool
        self._traffic = traffic
        self._admission = admission
        self._output = output

    def collect(self) -> Iterable[Metric]:
        yield _gauge("native_compiled", "1 if the inner loops are compiled, 0 if the slower fallback runs", COMPILED)
        yield _counter(
            "log_lines_dropped", "Log lines dropped because standard output was read too slowly", self._output.dropped
        )
        yield from self._of_index()
        yield from self._of_events()
        yield from self._of_pods()
        yield from self._of_api()

    def _of_index(self) -> Iterator[Metric]:
        counted = self._index.statistics
        yield _counter("index_admissions", "Blocks added to ranks", counted.admissions)
        yield _counter("index_evictions", "Blocks that engines evicted", counted.evictions)
        for name in ("index_capacity_evictions", "index_displaced"):  # the second is the name before version 0.1
            yield _counter(name, "Blocks evicted from the index to stay below INDEX_MAX_BLOCKS", counted.displaced)
        yield _counter("index_cleared", "Blocks of ranks that were cleared or forgotten", counted.cleared)
        yield _counter(
            "index_unknown_parents", "Blocks skipped because their parent block is unknown", counted.unknown_parents
        )
        yield _counter("index_unknown_blocks", "Block hashes that the index did not know", counted.unknown_blocks)
        yield _gauge("index_blocks", "Blocks in the index, over all ranks and tiers", self._index.blocks)
        yield _counter("index_lookup_requests", "Prompts looked up", counted.lookups)
        yield _counter("index_lookup_hits", "Lookups with a prefix match on at least one pod", counted.lookup_hits)
        yield _histogram(
            "index_lookup_latency_seconds", "Duration of a lookup in the index", {(): counted.lookup_seconds}
        )

    def _of_events(self) -> Iterator[Metric]:
        counted = self._pool.statistics
        yield _counter("events_messages_received", "Messages received; each holds one batch", counted.messages_received)
        yield _counter("events_batches_applied", "Batches applied to the index", counted.batches_applied)
        yield _counter(
            "events_batches_repeated", "Batches received again after they had been applied", counted.batches_repeated
        )
        yield _counter(
            "events_batches_lost", "Batches that were lost and that no replay returned", counted.batches_lost
        )
        yield _counter("events_applied", "Events applied to the index", counted.events_applied)
        yield _labelled(
            CounterMetricFamily("kvcache_events_skipped", "Messages and events skipped, by reason", labels=("reason",)),
            (((reason,), count) for reason, count in counted.skipped.items()),
        )
        yield _counter("events_gaps", "Gaps in sequence numbers", counted.gaps)
        yield _counter("events_replays", "Replays requested", counted.replays)
        yield _counter(
            "events_replay_failures", "Replays that did not return the missing batches", counted.replay_failures
        )
        yield _counter(
            "events_snapshots_taken", "Snapshots of engines that replaced the blocks of ranks", counted.snapshots_taken
        )
        yield _counter("events_restarts", "Sequences that started again: restarts of engines", counted.restarts)
        yield _labelled(
            CounterMetricFamily(
                "kvcache_events_claims_refused",
                "Messages about a rank that another endpoint speaks for, by the endpoint they came from",
                labels=("endpoint",),
            ),
            (((endpoint,), count) for endpoint, count in counted.claims_refused.items()),
        )
        yield _counter("events_peers_refused", "Connections of engines that were not allowed", counted.peers_refused)
        yield _labelled(
            GaugeMetricFamily(
                "kvcache_endpoint_state", "1 for the state that an endpoint is in", labels=("endpoint", "state")
            ),
            (((endpoint.address, endpoint.state), 1) for endpoint in self._pool.endpoints()),
        )
        yield _labelled(
            CounterMetricFamily(
                "kvcache_endpoint_messages", "Messages received from an endpoint", labels=("endpoint",)
            ),
            (((endpoint.address,), endpoint.messages) for endpoint in self._pool.endpoints()),
        )
        yield _gauge("events_queue_depth", "Batches queued until a replay ends", self._pool.waiting())
        yield _gauge(
            "events_last_lag_seconds",
            "Seconds from the timestamp of the last batch to its application",
            counted.lag_seconds,
        )
        yield _histogram(
            "events_lag_seconds", "Seconds from the timestamp of a batch to its application", {(): counted.lag}
        )

    def _of_pods(self) -> Iterator[Metric]:
        yield _labelled(
            GaugeMetricFamily("kvcache_pod_blocks", "Blocks that a rank holds, by tier", labels=(*_RANK, "tier")),
            (
                ((*_labels(blocks.rank), tier.name.lower()), count)
                for blocks in self._index.ranks()
                for tier, count in blocks.blocks_by_tier.items()
            ),
        )
        streams = [(_labels(stream.rank), stream) for stream in self._pool.streams()]
        yield _labelled(
            GaugeMetricFamily(
                "kvcache_pod_exact", "1 while the answers for a rank are known to equal its engine's", labels=_RANK
            ),
            ((rank, stream.exact) for rank, stream in streams),
        )
        yield _labelled(
            GaugeMetricFamily("kvcache_pod_connected", "1 while the connection to a rank is up", labels=_RANK),
            ((rank, stream.connected) for rank, stream in streams),
        )
        yield _labelled(
            GaugeMetricFamily("kvcache_pod_last_sequence", "Sequence number of a rank's last batch", labels=_RANK),
            ((rank, stream.last_sequence) for rank, stream in streams if stream.last_sequence is not None),
        )
        yield _labelled(
            GaugeMetricFamily("kvcache_pod_last_event_timestamp_seconds", "Unix time of the last event", labels=_RANK),
            ((rank, stream.last_event_at) for rank, stream in streams if stream.last_event_at is not None),
        )

    def _of_api(self) -> Iterator[Metric]:
        yield _labelled(
            CounterMetricFamily(
                "kvcache_http_requests", "HTTP requests answered", labels=("method", "route", "status")
            ),
            (((one.method, one.route, str(one.status)), count) for one, count in self._traffic.answered.items()),
        )
        seconds: dict[tuple[str, ...], Histogram] = {
            (route,): histogram for route, histogram in self._traffic.seconds.items()
        }
        meaning = "Seconds from the headers of a request to its response"
        yield _histogram("http_request_seconds", meaning, seconds, ("route",))
        yield _gauge("http_requests_in_flight", "HTTP requests in flight", self._traffic.in_flight)
        yield _gauge("http_event_streams", "Streams of events that are being sent", self._traffic.streams)
        yield _gauge("http_requests_admitted", "HTTP requests in flight whose body is there", self._admission.requests)
        yield _gauge("http_bytes_in_flight", "Bytes of bodies and responses in flight", self._admission.bytes)


class SnapshotCollector(Collector):
    """The snapshots that this process wrote."""

    def __init__(self, statistics: SnapshotStatistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        counted = self._statistics
        yield _counter("snapshots_written", "Snapshots of the index written to STATE_DIR", counted.written)
        yield _counter("snapshot_failures", "Snapshots that could not be written", counted.failed)
        yield _gauge("snapshot_last_timestamp_seconds", "When the last snapshot was written; 0: never", counted.last_at)
        yield _gauge("snapshot_last_duration_seconds", "Duration of writing the last snapshot", counted.last_seconds)
        yield _gauge("snapshot_last_bytes", "Size of the last snapshot", counted.last_bytes)


class GatewayCollector(Collector):
    """The pods that requests are forwarded to, and the outcomes of these requests."""

    def __init__(self, fleet: Registry, gateway: GatewayStatistics, accuracy: Accuracy, discovery: Discovery) -> None:
        self._accuracy = accuracy
        self._discovery = discovery
        self._fleet = fleet
        self._gateway = gateway

    def collect(self) -> Iterable[Metric]:
        counted = self._gateway
        yield _counter("gateway_retries", "Requests that were sent to another pod", counted.retries)
        yield _gauge("gateway_queued_requests", "Requests that wait, as all pods are full", counted.queued)
        yield _labelled(
            CounterMetricFamily("kvcache_gateway_failures", "Attempts without an answer", labels=("pod", "kind")),
            counted.failures.items(),
        )
        yield _labelled(
            CounterMetricFamily("kvcache_gateway_refusals", "Answers 429 and 503 of engines", labels=("pod", "status")),
            (((pod, str(status)), count) for (pod, status), count in counted.refusals.items()),
        )
        yield _labelled(
            CounterMetricFamily("kvcache_gateway_broken_answers", "Answers that broke off", labels=("pod",)),
            (((pod,), count) for pod, count in counted.broken_streams.items()),
        )
        yield _labelled(
            GaugeMetricFamily("kvcache_pod_available", "Whether requests may be sent to a pod", labels=("pod",)),
            (((pod.name,), bool(pod.healthy) and pod.is_available) for pod in self._fleet),
        )
        yield _labelled(
            GaugeMetricFamily(
                "kvcache_pod_parity",
                "1 for the verdict on our tokens, compared with those of a pod's engine",
                labels=("pod", "model", "verdict"),
            ),
            (
                ((pod.name, model, parity.verdict.value), 1)
                for pod in self._fleet
                for model, parity in pod.parity.items()
            ),
        )
        yield _labelled(
            CounterMetricFamily(
                "kvcache_routed_tokens",
                "Tokens of prompts whose answer had a usage: all; what the best pod held; what the chosen one held; "
                "what its engine reused",
                labels=("pod", "kind"),
            ),
            (
                ((pod.name, kind), tokens)
                for pod, counted in self._accuracy.pods.items()
                for kind, tokens in (
                    ("prompt", counted.prompt_tokens),
                    ("available", counted.available_tokens),
                    ("captured", counted.captured_tokens),
                    ("delivered", counted.delivered_tokens),
                )
            ),
        )
        yield _labelled(
            CounterMetricFamily(
                "kvcache_routed_requests",
                "Requests whose answer had a usage, by what the engine reused compared with the prediction; "
                "tokens_differ if it counted other tokens in the prompt",
                labels=("pod", "result"),
            ),
            (
                ((pod.name, result), count)
                for pod, counted in self._accuracy.pods.items()
                for result, count in counted.requests.items()
            ),
        )
        yield _labelled(
            GaugeMetricFamily("kvcache_pod_requests_in_flight", "Requests forwarded and not ended", labels=("pod",)),
            (((pod.name,), pod.in_flight - pod.in_flight_elsewhere) for pod in self._fleet),
        )
        yield from self._of_sources()

    def _of_sources(self) -> Iterator[Metric]:
        reports = self._discovery.reports()
        yield _labelled(
            GaugeMetricFamily("kvcache_discovery_pods", "Pods that a source of DISCOVERY names", labels=("source",)),
            (((report.source,), report.pods) for report in reports),
        )
        yield _labelled(
            GaugeMetricFamily(
                "kvcache_discovery_up",
                "0 while a source of DISCOVERY fails; its last pods are kept",
                labels=("source",),
            ),
            (((report.source,), report.answered and not report.failing) for report in reports),
        )
        yield _labelled(
            CounterMetricFamily("kvcache_discovery_failures", "Failures of a source of DISCOVERY", labels=("source",)),
            (((report.source,), report.failures) for report in reports),
        )


class SharedStateCollector(Collector):
    """The other replicas, and what goes between them; nothing without SHARED_STATE."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def collect(self) -> Iterable[Metric]:
        status = self._shared.status()
        if status is None:
            return
        yield _gauge("shared_state_up", "1 while the store that connects the replicas answers", not status.down_since)
        yield _gauge("replicas", "Replicas that are alive, this one included", len(self._shared.members) + 1)
        yield _counter("shared_state_messages_sent", "Messages to the other replicas", status.sent)
        yield _counter("shared_state_messages_received", "Messages from the stream of all replicas", status.received)
        yield _counter(
            "shared_state_messages_dropped", "Messages that were not sent: the store was down or slow", status.dropped
        )
        yield _counter(
            "shared_state_malformed",
            "Messages that were left out, damaged or of another version",
            self._shared.malformed,
        )


def _labels(rank: Rank) -> tuple[str, ...]:
    return (rank.pod, rank.model, str(rank.number))


def _counter(name: str, meaning: str, count: int) -> Metric:
    return CounterMetricFamily(f"kvcache_{name}", meaning, value=count)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"kvcache_{name}", meaning, value=value)


def _labelled(family: _Family, values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    for labels, value in values:
        family.add_metric(labels, float(value))
    return family


def _histogram(
    name: str, meaning: str, histograms: Mapping[tuple[str, ...], Histogram], labels: Sequence[str] = ()
) -> Metric:
    family = HistogramMetricFamily(f"kvcache_{name}", meaning, labels=labels)
    for values, histogram in histograms.items():
        bounds = (*map(str, map(float, histogram.bounds)), "+Inf")
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for number, (bound, reached) in enumerate(zip(bounds, accumulate(histogram.counts), strict=True)):
            found = histogram.exemplars.get(number)
            if found is None:
                buckets.append((bound, float(reached)))
            else:
                exemplar = Exemplar({"trace_id": found.trace_id}, found.value, found.at)
                buckets.append((bound, float(reached), exemplar))
        family.add_metric(values, buckets, histogram.total)
    return family
