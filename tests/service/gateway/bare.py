"""A gateway alone before one engine, without the service around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from service.contract.pods import PodEntry
from service.contract.tier_weights import TierWeights
from service.fleet.registry import Registry
from service.gateway.client_request import ClientRequest
from service.gateway.gateway import Gateway
from service.gateway.request_record import RequestRecords
from service.gateway.retries import Limits
from service.routing.choice import Router
from service.routing.question import Question


@asynccontextmanager
async def bare_gateway(url: str, pod: str, limits: Limits) -> AsyncIterator[str]:
    """Runs a gateway before the engine at `url`; gives its own URL."""
    registry = Registry()
    gateway = Gateway(registry, Router(registry, TierWeights()), limits)
    registry.add(PodEntry(url, pod))

    async def forward(request: web.Request) -> web.StreamResponse:
        RequestRecords().begin(request, "/")
        return await gateway.forward(ClientRequest(request, await request.read(), Question()))

    app = web.Application()
    app.add_routes([web.post("/{path:.*}", forward)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        gateway.close()
