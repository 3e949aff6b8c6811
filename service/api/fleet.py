"""POST, PATCH and DELETE /pods: change the pods that receive forwarded requests, at run time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from service.api.body import read_body
from service.api.errors import ApiError
from service.api.requests import NewPod, PodChange, decode
from service.api.resources import ACCURACY, FLEET, SHARED_PODS
from service.api.responses import FleetPod, FleetSource, ModelParity, ParityDifference, RoutedTokens, json_response
from service.contract.pods import PodEntry, pod_entry
from service.fleet.discovery.discovery import SourceReport
from service.fleet.parity import Parity
from service.fleet.registry import Pod, RankLoad
from service.routing.accuracy import Accuracy, PodAccuracy

_new_pod = msgspec.json.Decoder(NewPod)
_MAX_LENGTH = 512
_change = msgspec.json.Decoder(PodChange)


async def add_pod(request: web.Request) -> web.Response:
    """Adds a pod; its engine's models and event addresses are discovered within seconds."""
    entry = _entry(decode(_new_pod, await read_body(request)))
    try:
        pod = request.app[FLEET].add(entry)
    except ValueError as error:
        raise ApiError(409, str(error), param="name", code="pod_exists") from None
    request.app[SHARED_PODS].added(pod)
    return json_response(fleet_pod(pod, request.app[ACCURACY]), 201)


async def change_pod(request: web.Request) -> web.Response:
    """Drains a pod, or changes its weight."""
    change = decode(_change, await read_body(request))
    name = request.match_info["pod"]
    pod = request.app[FLEET].get(name)
    if pod is None:
        raise ApiError(404, f"unknown pod {name!r}; GET /pods lists the known ones", param="pod", code="pod_not_found")
    if change.draining is not None:
        pod.draining = change.draining
    if change.weight is not None:
        pod.weight = change.weight
    request.app[SHARED_PODS].changed(pod)
    return json_response(fleet_pod(pod, request.app[ACCURACY]))


def fleet_pod(pod: Pod, accuracy: Accuracy) -> FleetPod:
    """A pod as GET /pods shows it; its load is the sum over its ranks."""
    learned, loads = pod.learned, list(pod.load.values())
    return FleetPod(
        name=pod.name,
        url=pod.entry.url,
        healthy=pod.healthy,
        problem=pod.problem or pod.breaker.reason,
        breaker=pod.breaker.state.value,
        draining=pod.is_draining,
        weight=pod.weight,
        in_flight=pod.in_flight,
        models=[model.id for model in learned.models] if learned else [],
        ranks=learned.ranks if learned else None,
        version=learned.version if learned else None,
        running=sum(load.running for load in loads) if loads else None,
        waiting=sum(load.waiting for load in loads) if loads else None,
        cache_usage=max(load.cache_usage for load in loads) if loads else None,
        cache_hit_rate=_hit_rate(loads),
        parity=[_parity(model, parity) for model, parity in sorted(pod.parity.items())],
        reuse=accuracy.verdict(pod),
        routed=_routed(accuracy.pods.get(pod)),
    )


def fleet_source(report: SourceReport) -> FleetSource:
    """A source of pods as GET /pods shows it."""
    return FleetSource(source=report.source, pods=report.pods, failing=report.failing, problem=report.problem)


def _routed(counted: PodAccuracy | None) -> RoutedTokens:
    if counted is None:
        return RoutedTokens()
    return RoutedTokens(
        counted.requests.total(),
        counted.prompt_tokens,
        counted.available_tokens,
        counted.captured_tokens,
        counted.delivered_tokens,
    )


def _hit_rate(loads: Sequence[RankLoad]) -> float | None:
    """The share of prompt tokens that its engine found in its prefix caches; None if it does not tell."""
    if queried := sum(load.queried_tokens for load in loads):
        return round(sum(load.hit_tokens for load in loads) / queried, 4)
    given = [load.hit_rate for load in loads if load.hit_rate is not None]
    return round(sum(given) / len(given), 4) if given else None


def _parity(model: str, parity: Parity) -> ModelParity:
    at = parity.difference
    return ModelParity(
        model=model,
        verdict=parity.verdict,
        chats=parity.chats,
        texts=parity.texts,
        renderer=parity.renderer,
        compared=parity.compared,
        differing=list(parity.differing),
        difference=ParityDifference(at.request, at.position, at.here, at.engine) if at is not None else None,
        reason=parity.reason,
        remedy=parity.remedy,
    )


def _entry(new: NewPod) -> PodEntry:
    """The fleet entry of a pod. Raises ApiError 400."""
    options = {name: value for name in ("name", "events", "replay", "model") if (value := getattr(new, name))}
    for name, value in {"url": new.url, **options}.items():
        if not value.strip() or "," in value or len(value) > _MAX_LENGTH:
            message = f"`{name}` must not be empty, have a comma, or be longer than {_MAX_LENGTH} characters"
            raise ApiError(400, message, param=name)
    try:
        return pod_entry(new.url, options)
    except ValueError as error:
        raise ApiError(400, str(error), param="url") from None
