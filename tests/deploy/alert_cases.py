"""For each alert, series of half an hour at the end of which it fires, and others at which it does not.

Values are in promtool's notation: 0+60x30 begins at 0 and grows by 60 a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """Series with their values, bad and good; `labels` are those of the alert that fires, without its severity."""

    labels: Mapping[str, str]
    bad: dict[str, str]
    good: dict[str, str]


_REPLICA = {"job": "kvcache", "instance": "a:9464"}
_POD = {"job": "kvcache", "pod": "vllm-0:8000"}
_MODEL = {**_POD, "model": "org/name"}
_RANK = {**_MODEL, "rank": "0"}
_SOURCE = {"job": "kvcache", "source": "dns:vllm:8000"}


def _series(metric: str, labels: Mapping[str, str], **others: str) -> str:
    inside = ", ".join(f'{name}="{value}"' for name, value in {**labels, **others}.items())
    return f"{metric}{{{inside}}}"


def _constant(metric: str, labels: Mapping[str, str], bad: float, good: float, **others: str) -> Case:
    one = _series(metric, {**_REPLICA, **labels}, **others)
    return Case(labels, {one: f"{bad}+0x30"}, {one: f"{good}+0x30"})


def _counted(metric: str, labels: Mapping[str, str], a_minute: int, **others: str) -> Case:
    one = _series(metric, {**_REPLICA, **labels}, **others)
    return Case(labels, {one: f"0+{a_minute}x30"}, {one: "7+0x30"})


def _of_one_replica(metric: str, labels: Mapping[str, str]) -> Case:
    """Bad in all replicas; good in one of two, which is enough."""
    first, second = (_series(metric, {**labels, "instance": name}) for name in "ab")
    return Case(labels, {first: "0+0x30", second: "0+0x30"}, {first: "0+0x30", second: "1+0x30"})


def _of_any_replica(metric: str, labels: Mapping[str, str]) -> Case:
    """Bad in one of two replicas; good in both."""
    first, second = (_series(metric, {**labels, "instance": name}) for name in "ab")
    return Case(labels, {first: "0+0x30", second: "1+0x30"}, {first: "1+0x30", second: "1+0x30"})


def _tokens(captured: int, delivered: int) -> dict[str, str]:
    counted = {"prompt": 1000, "captured": captured, "delivered": delivered}
    return {
        _series("kvcache_routed_tokens_total", {**_REPLICA, **_POD}, kind=kind): f"0+{tokens}x30"
        for kind, tokens in counted.items()
    }


def _answers(ok: int, failed: int) -> dict[str, str]:
    return {
        _series("kvcache_http_requests_total", _REPLICA, status=status): f"0+{count}x30"
        for status, count in (("200", ok), ("503", failed))
    }


def _lag(late: int) -> dict[str, str]:
    counts = {"0.5": 100 - late, "5.0": 100, "+Inf": 100}
    return {
        _series("kvcache_events_lag_seconds_bucket", _REPLICA, le=bound): f"0+{count}x30"
        for bound, count in counts.items()
    }


CASES: Mapping[str, Case] = {
    "KvcacheDown": _constant("up", _REPLICA, 0, 1),
    "KvcachePodUnavailable": _of_one_replica("kvcache_pod_available", _POD),
    "KvcachePodInexact": _of_any_replica("kvcache_pod_exact", _RANK),
    "KvcachePodDisconnected": _of_any_replica("kvcache_pod_connected", _RANK),
    "KvcacheParityLost": Case(
        _MODEL,
        {_series("kvcache_pod_parity", {**_REPLICA, **_MODEL}, verdict="differs"): "1+0x30"},
        {_series("kvcache_pod_parity", {**_REPLICA, **_MODEL}, verdict="unknown"): "1+0x30"},
    ),
    "KvcacheReplayFailing": _counted("kvcache_events_replay_failures_total", _REPLICA, 1),
    "KvcacheBatchesLost": _counted("kvcache_events_batches_lost_total", _REPLICA, 1),
    "KvcacheEventsQueued": _constant("kvcache_events_queue_depth", _REPLICA, 1001, 1000),
    "KvcacheEventsLate": Case(_REPLICA, _lag(20), _lag(5)),
    "KvcachePredictionsDiffer": Case(_POD, _tokens(800, 600), _tokens(800, 780)),
    "KvcacheTokensDiffer": _counted("kvcache_routed_requests_total", _POD, 1, result="tokens_differ"),
    "KvcacheErrors": Case(_REPLICA, _answers(90, 10), _answers(97, 3)),
    "KvcachePodFailing": _counted("kvcache_gateway_failures_total", _POD, 3, kind="reset"),
    "KvcacheRequestsQueued": _constant("kvcache_gateway_queued_requests", _REPLICA, 1, 0),
    "KvcacheRequestsRefused": _counted("kvcache_http_requests_total", _REPLICA, 12, status="429"),
    "KvcacheSharedStateDown": _constant("kvcache_shared_state_up", _REPLICA, 0, 1),
    "KvcacheDiscoveryFailing": _of_any_replica("kvcache_discovery_up", _SOURCE),
    "KvcacheSnapshotsFailing": _counted("kvcache_snapshot_failures_total", _REPLICA, 1),
    "KvcacheIndexFull": _counted("kvcache_index_capacity_evictions_total", _REPLICA, 100),
}
