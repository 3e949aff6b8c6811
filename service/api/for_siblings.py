"""The endpoints that a worker has for the others of its machine: its own figures alone."""

from __future__ import annotations

import asyncio
from functools import partial

from aiohttp import web

from service.api import operations, request_events, snapshot
from service.api.resources import MODELS, REGISTRY, SIBLINGS
from service.workers.metrics import encode
from service.workers.siblings import REFRESH, Siblings


def application(app: web.Application) -> web.Application:
    """The application behind a worker's Unix socket: with the resources of the public one, and without siblings."""
    own = web.Application()
    for key, value in app.items():
        if key is not SIBLINGS:
            own[key] = value
    own.add_routes(
        [
            web.get("/metrics", partial(metrics, app[SIBLINGS])),
            web.get("/pods", operations.pods),
            web.get("/requests", request_events.requests),
            web.get("/snapshot", snapshot.snapshot),
            web.post(REFRESH, refresh),
        ]
    )
    return own


async def metrics(siblings: Siblings, request: web.Request) -> web.Response:
    registry = await asyncio.to_thread(request.app[REGISTRY])
    families = await asyncio.to_thread(siblings.own_metrics, list(registry.collect()))
    return web.Response(body=encode(families))


async def refresh(request: web.Request) -> web.Response:
    """Loads the model named in the body again, if its files have changed."""
    await request.app[MODELS].refresh(await request.text())
    return web.Response()
