"""The panels of the dashboard: their queries and their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import units

_PROXIED = 'route=~"/v1/.*"'
_RANK = "pod, model, rank"
_SELECTED = ('job=~"$job"', 'instance=~"$instance"')
_FAILED = 'status=~"5.."'
_BAD = 'status=~"[45].."'


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel of `queries`, pairs of PromQL and legend; `bad_above` and `bad_below` color a number.

    With `exemplars`, single requests are shown with their traces.
    """

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = units.Short
    meaning: str = ""
    number: bool = False
    bad_above: float | None = None
    bad_below: float | None = None
    exemplars: bool = False


def _of(metric: str, *matchers: str) -> str:
    """A selector of the replicas that the dashboard's variables name."""
    return f"{metric}{{{', '.join((*_SELECTED, *matchers))}}}"


def _rate(metric: str, by: str = "", *matchers: str) -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({_of(metric, *matchers)}[$__rate_interval]))"


def _of_each(aggregation: str, metric: str) -> str:
    """A metric of each replica, over its workers."""
    return f"{aggregation} by (instance) ({_of(metric)})"


def _quantile(quantile: float, metric: str, by: str = "", *matchers: str) -> str:
    buckets = _rate(f"{metric}_bucket", f"{by}, le" if by else "le", *matchers)
    return f"histogram_quantile({quantile}, {buckets})"


def _tokens(kind: str, by: str = "") -> str:
    return _rate("kvcache_routed_tokens_total", by, f'kind="{kind}"')


ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Fleet",
        (
            Panel(title="Replicas", number=True, queries=[(f"sum({_of('up')})", "")], bad_below=1),
            Panel(
                title="Pods available",
                number=True,
                bad_below=1,
                queries=[(f"sum(max by (pod) ({_of('kvcache_pod_available')}))", "")],
                meaning="Pods that at least one replica sends requests to.",
            ),
            Panel(
                title="Ranks inexact",
                number=True,
                bad_above=0,
                queries=[(f"sum(1 - min by ({_RANK}) ({_of('kvcache_pod_exact')}))", "")],
                meaning="Ranks whose answers may differ from their engines; GET /pods gives the reasons.",
            ),
            Panel(
                title="Requests per second",
                number=True,
                unit=units.RequestsPerSecond,
                queries=[(_rate("kvcache_http_requests_total"), "")],
            ),
            Panel(
                title="Prompt tokens reused",
                number=True,
                unit=units.PercentUnit,
                queries=[(f"{_tokens('delivered')} / {_tokens('prompt')}", "")],
                meaning="Share of the prompt tokens that engines took from their caches.",
            ),
            Panel(
                title="Answers that are errors",
                number=True,
                unit=units.PercentUnit,
                bad_above=0.01,
                queries=[
                    (
                        f"({_rate('kvcache_http_requests_total', '', _FAILED)} or vector(0)) "
                        f"/ {_rate('kvcache_http_requests_total')}",
                        "",
                    )
                ],
            ),
            Panel(
                title="Requests in flight",
                queries=[
                    (f"sum by (pod) ({_of('kvcache_pod_requests_in_flight')})", "{{pod}}"),
                    (f"sum({_of('kvcache_gateway_queued_requests')})", "waiting for a pod"),
                ],
            ),
            Panel(
                title="Pods available, by pod",
                queries=[(f"max by (pod) ({_of('kvcache_pod_available')})", "{{pod}}")],
            ),
            Panel(
                title="Blocks",
                queries=[
                    (f"sum by (pod, tier) (max by ({_RANK}, tier) ({_of('kvcache_pod_blocks')}))", "{{pod}} {{tier}}")
                ],
                meaning="Blocks that pods hold, by tier.",
            ),
            Panel(
                title="Pods of DISCOVERY",
                queries=[
                    (f"max by (source) ({_of('kvcache_discovery_pods')})", "{{source}}"),
                    (f"min by (source) ({_of('kvcache_discovery_up')})", "{{source}} answers"),
                ],
            ),
            Panel(
                title="Replicas that see each other",
                queries=[
                    (f"min by (instance) ({_of('kvcache_replicas')})", "{{instance}}"),
                    (f"min by (instance) ({_of('kvcache_shared_state_up')})", "{{instance}} reaches the store"),
                ],
                meaning="With SHARED_STATE.",
            ),
            Panel(
                title="Messages between replicas",
                unit="msg/s",
                queries=[
                    (_rate("kvcache_shared_state_messages_sent_total", "instance"), "{{instance}} sent"),
                    (_rate("kvcache_shared_state_messages_received_total", "instance"), "{{instance}} received"),
                    (_rate("kvcache_shared_state_messages_dropped_total", "instance"), "{{instance}} dropped"),
                    (_rate("kvcache_shared_state_malformed_total", "instance"), "{{instance}} left out"),
                ],
            ),
        ),
    ),
    (
        "Truth",
        (
            Panel(
                title="Ranks exact",
                queries=[(f"min by ({_RANK}) ({_of('kvcache_pod_exact')})", "{{pod}} {{model}} {{rank}}")],
                meaning="1 while the answers for a rank are known to equal its engine's.",
            ),
            Panel(
                title="Connections to events",
                queries=[(f"min by ({_RANK}) ({_of('kvcache_pod_connected')})", "{{pod}} {{model}} {{rank}}")],
            ),
            Panel(
                title="Parity",
                queries=[
                    (
                        f"max by (pod, model, verdict) ({_of('kvcache_pod_parity')})",
                        "{{pod}} {{model}} {{verdict}}",
                    )
                ],
                meaning="Whether our tokens equal those of the engine.",
            ),
            Panel(
                title="Events applied",
                unit="events/s",
                queries=[(_rate("kvcache_events_applied_total", "instance"), "{{instance}}")],
            ),
            Panel(
                title="Lag of events",
                unit=units.Seconds,
                queries=[
                    (_quantile(0.5, "kvcache_events_lag_seconds"), "median"),
                    (_quantile(0.99, "kvcache_events_lag_seconds"), "p99"),
                ],
                meaning="From the engine's timestamp of a batch to its application; contains differences of clocks.",
            ),
            Panel(
                title="Gaps and replays",
                queries=[
                    (_rate("kvcache_events_gaps_total"), "gaps"),
                    (_rate("kvcache_events_replays_total"), "replays"),
                    (_rate("kvcache_events_replay_failures_total"), "replays failed"),
                    (_rate("kvcache_events_snapshots_taken_total"), "snapshots of engines taken"),
                    (_rate("kvcache_events_batches_lost_total"), "batches lost"),
                    (_rate("kvcache_events_restarts_total"), "restarts of engines"),
                ],
                unit=units.CountsPerSecond,
            ),
            Panel(
                title="Batches that wait for a replay",
                queries=[(_of_each("max", "kvcache_events_queue_depth"), "{{instance}}")],
            ),
            Panel(
                title="Events skipped or unknown",
                unit="events/s",
                queries=[
                    (_rate("kvcache_events_skipped_total", "reason"), "{{reason}}"),
                    (_rate("kvcache_index_unknown_parents_total"), "parent block unknown"),
                    (_rate("kvcache_index_unknown_blocks_total"), "block hash unknown"),
                ],
            ),
            Panel(
                title="Endpoints",
                queries=[
                    (f"count by (state) (max by (endpoint, state) ({_of('kvcache_endpoint_state')}))", "{{state}}")
                ],
            ),
        ),
    ),
    (
        "Routing quality",
        (
            Panel(
                title="Prompt tokens in caches",
                unit=units.PercentUnit,
                queries=[
                    (f"{_tokens('available')} / {_tokens('prompt')}", "held by the best pod"),
                    (f"{_tokens('captured')} / {_tokens('prompt')}", "held by the chosen pod"),
                    (f"{_tokens('delivered')} / {_tokens('prompt')}", "reused by its engine"),
                ],
            ),
            Panel(
                title="Reused tokens minus predicted tokens",
                unit=units.PercentUnit,
                queries=[
                    (
                        f"({_tokens('delivered', 'pod')} - {_tokens('captured', 'pod')}) / {_tokens('prompt', 'pod')}",
                        "{{pod}}",
                    )
                ],
                meaning="As a share of the prompt tokens; 0 where predictions are right.",
            ),
            Panel(
                title="Predictions",
                unit=units.RequestsPerSecond,
                queries=[(_rate("kvcache_routed_requests_total", "result"), "{{result}}")],
                meaning="Requests by the engine's reuse, compared with the prediction.",
            ),
            Panel(
                title="Tokens reused",
                unit="tokens/s",
                queries=[(_tokens("delivered", "pod"), "{{pod}}")],
            ),
            Panel(
                title="Requests by pod",
                unit=units.RequestsPerSecond,
                queries=[(_rate("kvcache_routed_requests_total", "pod"), "{{pod}}")],
            ),
            Panel(
                title="Lookups with a prefix match",
                unit=units.PercentUnit,
                queries=[
                    (
                        f"{_rate('kvcache_index_lookup_hits_total', 'instance')} "
                        f"/ {_rate('kvcache_index_lookup_requests_total', 'instance')}",
                        "{{instance}}",
                    )
                ],
            ),
        ),
    ),
    (
        "Latency and errors",
        (
            Panel(
                title="Time to the response of an engine",
                unit=units.Seconds,
                exemplars=True,
                queries=[
                    (_quantile(quantile, "kvcache_http_request_seconds", "", _PROXIED), name)
                    for quantile, name in ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))
                ],
                meaning="From the headers of a request to the end of its response; of streams, to their first bytes.",
            ),
            Panel(
                title="p99 by route",
                unit=units.Seconds,
                queries=[(_quantile(0.99, "kvcache_http_request_seconds", "route"), "{{route}}")],
            ),
            Panel(
                title="Lookup in the index",
                unit=units.Seconds,
                queries=[
                    (_quantile(0.5, "kvcache_index_lookup_latency_seconds"), "median"),
                    (_quantile(0.99, "kvcache_index_lookup_latency_seconds"), "p99"),
                ],
            ),
            Panel(
                title="Requests",
                unit=units.RequestsPerSecond,
                queries=[(_rate("kvcache_http_requests_total", "route, status"), "{{route}} {{status}}")],
            ),
            Panel(
                title="Failed attempts",
                unit=units.RequestsPerSecond,
                queries=[
                    (_rate("kvcache_gateway_failures_total", "pod, kind"), "{{pod}} {{kind}}"),
                    (_rate("kvcache_gateway_refusals_total", "pod, status"), "{{pod}} {{status}}"),
                    (_rate("kvcache_gateway_broken_answers_total", "pod"), "{{pod}} broken answer"),
                    (_rate("kvcache_gateway_retries_total"), "sent to another pod"),
                ],
                meaning="Attempts to reach a pod; a request fails only if no other pod answers.",
            ),
            Panel(
                title="Errors",
                unit=units.RequestsPerSecond,
                queries=[(_rate("kvcache_http_requests_total", "route, status", _BAD), "{{route}} {{status}}")],
            ),
        ),
    ),
    (
        "Resources",
        (
            Panel(
                title="CPU",
                unit="cores",
                queries=[(_rate("process_cpu_seconds_total", "instance"), "{{instance}}")],
                meaning="One event loop per process: 1 is all that a replica without workers can use.",
            ),
            Panel(
                title="Memory",
                unit=units.BytesIEC,
                queries=[(_of_each("sum", "process_resident_memory_bytes"), "{{instance}}")],
            ),
            Panel(
                title="Open files",
                unit=units.PercentUnit,
                queries=[
                    (
                        f"max by (instance) ({_of('process_open_fds')} / {_of('process_max_fds')})",
                        "{{instance}}",
                    )
                ],
            ),
            Panel(
                title="Blocks in the index",
                queries=[
                    (_of_each("max", "kvcache_index_blocks"), "{{instance}}"),
                ],
            ),
            Panel(
                title="Changes of the index",
                unit="blocks/s",
                queries=[
                    (_rate("kvcache_index_admissions_total"), "added"),
                    (_rate("kvcache_index_evictions_total"), "evicted by engines"),
                    (_rate("kvcache_index_capacity_evictions_total"), "evicted for INDEX_MAX_BLOCKS"),
                    (_rate("kvcache_index_cleared_total"), "cleared"),
                ],
            ),
            Panel(
                title="HTTP requests in flight",
                queries=[
                    (_of_each("sum", "kvcache_http_requests_in_flight"), "{{instance}}"),
                    (_of_each("sum", "kvcache_http_requests_admitted"), "{{instance}} with their body"),
                ],
            ),
            Panel(
                title="Bodies and responses in flight",
                unit=units.BytesIEC,
                queries=[(_of_each("sum", "kvcache_http_bytes_in_flight"), "{{instance}}")],
            ),
            Panel(
                title="Age of the last snapshot",
                unit=units.Seconds,
                queries=[
                    (
                        f"time() - max by (instance) ({_of('kvcache_snapshot_last_timestamp_seconds')} > 0)",
                        "{{instance}}",
                    ),
                    (
                        _of_each("max", "kvcache_snapshot_last_duration_seconds"),
                        "{{instance}} duration of writing",
                    ),
                ],
            ),
            Panel(
                title="Size of the last snapshot",
                unit=units.BytesIEC,
                queries=[(_of_each("max", "kvcache_snapshot_last_bytes"), "{{instance}}")],
            ),
        ),
    ),
)
