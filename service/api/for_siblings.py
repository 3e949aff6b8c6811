"""What a worker tells the others of its machine, each of itself alone."""

from __future__ import annotations

import asyncio

from aiohttp import web

from service.api import operations
from service.api.resources import REGISTRY, SIBLINGS
from service.api.responses import json_response
from service.workers.metrics import encode


def application(app: web.Application) -> web.Application:
    """The application behind a worker's Unix socket, with the resources of the public one."""
    own = web.Application()
    for key, value in app.items():
        own[key] = value
    own.add_routes([web.get("/metrics", metrics), web.get("/pods", pods)])
    return own


async def metrics(request: web.Request) -> web.Response:
    families = await asyncio.to_thread(request.app[SIBLINGS].own_metrics, list(request.app[REGISTRY].collect()))
    return web.Response(body=encode(families))


async def pods(request: web.Request) -> web.Response:
    return json_response(operations.own_pods(request.app))
