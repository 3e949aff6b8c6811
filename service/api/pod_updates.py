"""GET /pods as a stream: all ranks and pods at first, then those that have changed, once a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from service.api.event_stream import event_stream
from service.api.pod_states import PodState
from service.api.resources import POD_STATES, POOL, READINESS
from service.api.responses import PodList, ServiceFigures

ListPods: TypeAlias = Callable[[web.Application], Awaitable[tuple[PodList, int]]]
"""Gives the pods as all processes of this machine know them, and the number of these."""


async def updates(request: web.Request, list_pods: ListPods) -> web.StreamResponse:
    """Sends updates until the client leaves."""
    app = request.app

    async def look() -> tuple[PodList, ServiceFigures]:
        listed, processes = await list_pods(app)
        return listed, _figures(app, processes)

    known: PodState | None = None
    async with event_stream(request) as events:
        while True:
            state = await app[POD_STATES].next(look, known)
            await events.send("pods", state.since(known))
            known = state


def _figures(app: web.Application, processes: int) -> ServiceFigures:
    pool = app[POOL]
    counted = pool.statistics
    return ServiceFigures(
        not_ready=app[READINESS].reasons(),
        silent=pool.silent(),
        events_applied=counted.events_applied,
        batches_lost=counted.batches_lost,
        batches_waiting=pool.waiting(),
        lag_seconds=counted.lag_seconds,
        processes=processes,
    )
