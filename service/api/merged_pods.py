"""One /pods of several workers."""

from __future__ import annotations

from collections.abc import Sequence

from service.api.responses import FleetPod, PodList, PodRank


def merged_pods(own: PodList, others: Sequence[PodList]) -> PodList:
    """The list of one worker, with what others add: a rank is exact and connected if it is so for all of them.

    Every worker knows the requests in flight of all; a pod that is unhealthy or shut out for one of them is shown so,
    and so is a source of pods that fails for one of them. Tokens that were routed are added.
    """
    ranks = {_key(rank): rank for rank in own.pods}
    fleet = {pod.name: pod for pod in own.fleet}
    for other in others:
        for rank in other.pods:
            _add_rank(ranks.setdefault(_key(rank), rank), rank)
        for pod in other.fleet:
            known = fleet.setdefault(pod.name, pod)
            if known is not pod:
                _add_pod(known, pod)
    sources = {source.source: source for source in own.discovery}
    for source in (source for other in others for source in other.discovery):
        if sources.setdefault(source.source, source).problem is None and source.problem is not None:
            sources[source.source] = source
    return PodList([ranks[key] for key in sorted(ranks)], list(fleet.values()), list(sources.values()))


def _key(rank: PodRank) -> tuple[str, str, int]:
    return rank.pod, rank.model, rank.rank


def _add_rank(known: PodRank, other: PodRank) -> None:
    known.connected = known.connected and other.connected
    known.lag_seconds = max((lag for lag in (known.lag_seconds, other.lag_seconds) if lag is not None), default=None)
    if known.exact and not other.exact:
        known.exact, known.inexact_reason = False, other.inexact_reason
    known.claimants = sorted({*known.claimants, *other.claimants})


def _add_pod(known: FleetPod, other: FleetPod) -> None:
    known.in_flight = max(known.in_flight, other.in_flight)
    for name in known.routed.__struct_fields__:
        setattr(known.routed, name, getattr(known.routed, name) + getattr(other.routed, name))
    if known.problem is None and other.problem is not None:
        known.healthy, known.problem, known.breaker = other.healthy, other.problem, other.breaker
