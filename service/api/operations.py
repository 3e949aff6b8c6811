"""What operators and their tools ask: /health, /ready, /metrics, /pods, /v1/models and /openapi.json."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.api.errors import Refusal
from service.api.resources import DOCUMENT, INDEX, MODELS, POOL, READINESS, REGISTRY, SETTINGS
from service.api.responses import (
    ByTier,
    Forgotten,
    ModelCard,
    ModelList,
    NotReady,
    PodList,
    PodRank,
    Ready,
    json_answer,
)
from service.events.stream import StreamState
from service.index.base import Rank, RankBlocks

_STARTED = int(time.time())


async def health(request: web.Request) -> web.Response:
    """The process answers; it may not be ready yet."""
    return web.Response(text="OK")


async def ready(request: web.Request) -> web.Response:
    """Whether requests can be answered; 503 with the reasons if not."""
    reasons = request.app[READINESS].reasons()
    if reasons:
        refusal = Refusal(503, "; ".join(reasons), code="not_ready")
        return json_answer(NotReady(refusal.detail, ready=False, reasons=reasons), 503)
    return json_answer(Ready(ready=True, reasons=[]))


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' exposition, in the format that the scraper accepts."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    collected = _Collected(list(request.app[REGISTRY].collect()))
    body = await asyncio.to_thread(encode, collected)
    return web.Response(body=body, headers={"Content-Type": content_type})


class _Collected(Collector):
    """Families as they were at one moment: a thousand pods take too long to write down on the event loop."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


async def pods(request: web.Request) -> web.Response:
    """Every rank of every pod."""
    held = {blocks.rank: blocks for blocks in request.app[INDEX].ranks()}
    heard = {stream.rank: stream for stream in request.app[POOL].streams()}
    now = time.time()
    return json_answer(
        PodList([_pod_rank(rank, held.get(rank), heard.get(rank), now) for rank in sorted({*held, *heard})])
    )


def _pod_rank(rank: Rank, held: RankBlocks | None, heard: StreamState | None, now: float) -> PodRank:
    last_event_at = heard.last_event_at if heard else None
    inexact_reason = heard.inexact_reason if heard else None
    return PodRank(
        pod=rank.pod,
        model=rank.model,
        rank=rank.number,
        endpoint=heard.endpoint if heard else None,
        connected=heard.connected if heard else False,
        exact=inexact_reason is None,
        inexact_reason=inexact_reason,
        last_sequence=heard.last_sequence if heard else None,
        last_event_age_seconds=None if last_event_at is None else round(max(0.0, now - last_event_at), 3),
        block_sizes=list(held.block_sizes) if held else [],
        blocks=ByTier.of(held.blocks_by_tier) if held else ByTier(),
        not_understood=list(held.unsupported_groups) if held else [],
    )


async def forget_pod(request: web.Request) -> web.Response:
    """Drops all that is known of a pod; it comes back with its next event."""
    pod = request.match_info["pod"]
    if not request.app[POOL].forget(pod):
        raise Refusal(404, f"there is no pod {pod!r}; GET /pods lists them", param="pod", code="pod_not_found")
    return json_answer(Forgotten(pod, forgotten=True))


async def models(request: web.Request) -> web.Response:
    """The default model, those that are loaded, those of the pods, and the LoRAs that engines announced."""
    app = request.app
    served = {held.rank.model for held in app[INDEX].ranks()}
    names = sorted({app[SETTINGS].model_name, *app[MODELS].loaded(), *served})
    cards = [ModelCard(id=name, created=_STARTED, parent=None) for name in names]
    cards += [ModelCard(id=lora, created=_STARTED, parent=base) for lora, base in sorted(app[INDEX].loras().items())]
    return json_answer(ModelList(data=cards))


async def openapi(request: web.Request) -> web.Response:
    """This API, described."""
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")
