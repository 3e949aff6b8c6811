"""Endpoints for operators: /health, /ready, /metrics, /pods, /v1/models and /openapi.json."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from service.api.body import read_body
from service.api.errors import ApiError
from service.api.event_stream import wants_events
from service.api.fleet import fleet_pod, fleet_source
from service.api.merged_pods import merged_pods
from service.api.pod_updates import updates
from service.api.requests import RefreshRequest, decode
from service.api.resources import (
    ACCURACY,
    DISCOVERY,
    DOCUMENT,
    FLEET,
    INDEX,
    INSTANCE_ID,
    MODELS,
    POOL,
    READINESS,
    REGISTRY,
    RESOLVER,
    SHARED,
    SHARED_PODS,
    SIBLINGS,
    TRAFFIC,
)
from service.api.responses import (
    ByTier,
    EndpointList,
    EndpointStatus,
    Forgotten,
    ModelCard,
    ModelList,
    NotReady,
    PodList,
    PodRank,
    Ready,
    Refreshed,
    json_response,
)
from service.contract.http import INSTANCE_HEADER
from service.events.pool import StreamReport
from service.fleet.parity import Verdict
from service.index.base import Rank, RankBlocks
from service.replicas.shared.base import describe

if TYPE_CHECKING:
    from prometheus_client import Metric

_refresh = msgspec.json.Decoder(RefreshRequest)
_pods = msgspec.json.Decoder(PodList)
_STARTED = int(time.time())


async def health(request: web.Request) -> web.Response:
    """Answers OK while the process runs, whether it is ready or not."""
    instance = request.app[INSTANCE_ID]
    return web.Response(text="OK", headers={INSTANCE_HEADER: instance} if instance else None)


async def ready(request: web.Request) -> web.Response:
    """Tells whether requests can be answered; 503 with the reasons if not."""
    shared_state = describe(request.app[SHARED].status())
    reasons = request.app[READINESS].reasons()
    if request.app[TRAFFIC].is_ending:
        reasons.insert(0, "the service is stopping")
    if reasons:
        error = ApiError(503, "; ".join(reasons), code="not_ready")
        return json_response(NotReady(error.detail, ready=False, reasons=reasons, shared_state=shared_state), 503)
    return json_response(Ready(ready=True, reasons=[], shared_state=shared_state))


async def metrics(request: web.Request) -> web.Response:
    """Returns the metrics in the Prometheus format that the scraper accepts."""
    families = list((await asyncio.to_thread(request.app[REGISTRY])).collect())
    if (siblings := request.app.get(SIBLINGS)) is not None:
        families = await siblings.metrics(families)
    # In a thread: a thousand pods would block the event loop for too long.
    body, content_type = await asyncio.to_thread(_written, families, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


def _written(families: list[Metric], accept: str) -> tuple[bytes, str]:
    from service.api.exposition import written  # noqa: PLC0415 - loads prometheus_client, which a start need not wait for

    return written(families, accept)


async def pods(request: web.Request) -> web.StreamResponse:
    """Lists every rank of every pod, and the pods that requests are forwarded to; as events, also what changes."""
    if wants_events(request):
        return await updates(request, _pods_of_all)
    return json_response((await _pods_of_all(request.app))[0])


async def _pods_of_all(app: web.Application) -> tuple[PodList, int]:
    """The pods as all processes of this machine know them, and the number of these."""
    if (siblings := app.get(SIBLINGS)) is None:
        return _own_pods(app), 1
    answers = await siblings.ask("GET", "/pods")
    return merged_pods(_own_pods(app), [_pods.decode(answer) for answer in answers]), 1 + len(answers)


def _own_pods(app: web.Application) -> PodList:
    """The ranks and the pods as this process knows them."""
    blocks = {rank_blocks.rank: rank_blocks for rank_blocks in app[INDEX].ranks()}
    pool = app[POOL]
    streams = {stream.rank: stream for stream in (*pool.unheard(), *pool.streams())}
    now = time.time()
    names = {name: pod.name for pod in app[FLEET] for name in pod.event_names}
    ranks = [
        _pod_rank(rank, blocks.get(rank), streams.get(rank), now, names.get(rank.pod))
        for rank in sorted({*blocks, *streams})
    ]
    fleet = [fleet_pod(pod, app[ACCURACY]) for pod in app[FLEET]]
    return PodList(ranks, fleet, [fleet_source(report) for report in app[DISCOVERY].reports()])


def _pod_rank(
    rank: Rank, blocks: RankBlocks | None, stream: StreamReport | None, now: float, fleet_pod: str | None
) -> PodRank:
    last_event_at = stream.last_event_at if stream else None
    inexact_reason = stream.inexact_reason if stream else None
    unsupported_groups = list(blocks.unsupported_groups) if blocks else []
    return PodRank(
        pod=rank.pod,
        model=rank.model,
        rank=rank.number,
        endpoint=stream.endpoint if stream else None,
        connected=stream.connected if stream else False,
        exact=inexact_reason is None,
        inexact_reason=inexact_reason,
        claimants=list(stream.claimants) if stream else [],
        last_sequence=stream.last_sequence if stream else None,
        last_event_age_seconds=_age(last_event_at, now),
        block_sizes=list(blocks.block_sizes) if blocks else [],
        blocks=ByTier.of(blocks.blocks_by_tier) if blocks else ByTier(),
        unsupported_groups=unsupported_groups,
        not_understood=unsupported_groups,
        fleet_pod=fleet_pod,
        events_applied=stream.events_applied if stream else 0,
        lag_seconds=stream.lag_seconds if stream else None,
    )


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else round(max(0.0, now - at), 3)


async def endpoints(request: web.Request) -> web.Response:
    """Lists the endpoints that events come from, and why nothing arrives from them."""
    now = time.time()
    return json_response(
        EndpointList(
            [
                EndpointStatus(
                    address=report.address,
                    state=report.state,
                    connections=report.connections,
                    messages=report.messages,
                    last_message_age_seconds=_age(report.last_message_at, now),
                    topics_left_out=list(report.topics_left_out),
                    pods=list(report.pods),
                    problem=report.problem,
                )
                for report in request.app[POOL].endpoints()
            ]
        )
    )


async def forget_pod(request: web.Request) -> web.Response:
    """Removes a pod and its blocks; one that is not forwarded to comes back with its next event."""
    pod = request.match_info["pod"]
    removed = request.app[FLEET].remove(pod)
    if not request.app[POOL].forget(pod) and removed is None:
        raise ApiError(404, f"unknown pod {pod!r}; GET /pods lists the known ones", param="pod", code="pod_not_found")
    request.app[SHARED_PODS].removed(pod)
    return json_response(Forgotten(pod, forgotten=True))


async def models(request: web.Request) -> web.Response:
    """Lists the models and LoRAs of the pods; without pods to forward to, also the default and the loaded models."""
    return json_response(ModelList(data=_cards(request.app)))


async def refresh_model(request: web.Request) -> web.Response:
    """Loads a model again if its files have changed, here or on the hub."""
    body = decode(_refresh, await read_body(request))
    name = request.app[RESOLVER].model_name(body.model)
    is_anew = await request.app[MODELS].refresh(name)
    if (siblings := request.app.get(SIBLINGS)) is not None:
        await siblings.refresh(name)
    return json_response(Refreshed(name, is_anew))


async def model(request: web.Request) -> web.Response:
    """Describes one model of that list."""
    name = request.match_info["model"]
    card = next((card for card in _cards(request.app) if card.id == name), None)
    if card is None:
        message = f"Model {name!r} is none of GET /v1/models"
        raise ApiError(404, message, param="model", code="model_not_found")
    return json_response(card)


def _cards(app: web.Application) -> list[ModelCard]:
    served = {blocks.rank.model for blocks in app[INDEX].ranks()}
    fleet = app[FLEET].models()
    ours = {app[RESOLVER].default_model, *app[MODELS].loaded()} if not fleet else set()
    names = sorted({*ours, *served, *(name for name, model in fleet.items() if model.parent is None)})
    cards = [_card(app, name) for name in names]
    loras = {**app[INDEX].loras(), **{name: model.parent for name, model in fleet.items() if model.parent}}
    return cards + [ModelCard(id=lora, created=_STARTED, parent=base) for lora, base in sorted(loras.items())]


def _card(app: web.Application, name: str) -> ModelCard:
    served, loaded = app[FLEET].model(name), app[MODELS].find(name)
    parity = None
    if served is not None:
        kinds = [app[FLEET].agreement(name, chat=chat).verdict for chat in (True, False)]
        parity = next((one for one in (Verdict.DIFFERS, Verdict.UNKNOWN) if one in kinds), Verdict.EQUAL)
    return ModelCard(
        id=name,
        created=_STARTED,
        parent=None,
        root=served.root if served is not None else None,
        max_model_len=served.max_model_len if served is not None else None,
        renderer=loaded.renderer_name if loaded is not None else None,
        parity=parity,
    )


async def openapi(request: web.Request) -> web.Response:
    """Returns this document."""
    body = await asyncio.to_thread(request.app[DOCUMENT])
    return web.Response(body=body, content_type="application/json")
