"""The application: its resources, each started and stopped in one place, and its routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web

from service.api.middleware import guarded
from service.api.openapi import document
from service.api.requests import chat_bodies
from service.api.resources import CHAT_BODIES, DOCUMENT, INDEX, MODELS, POOL, READINESS, REGISTRY, SETTINGS, TRAFFIC
from service.api.routes import ROUTES
from service.api.traffic import Traffic
from service.contract.settings import Settings
from service.events.pool import EventPool
from service.index.memory import MemoryIndex
from service.metrics import registry
from service.prompts.models.catalog import Models
from service.readiness import Readiness


def create_app(settings: Settings) -> web.Application:
    """Wires the service together; nothing runs before the application is started."""
    app = web.Application(client_max_size=settings.max_body_bytes)
    app[SETTINGS] = settings
    app[TRAFFIC] = Traffic()
    app[INDEX] = MemoryIndex(settings.index_max_blocks, settings.token_cache_bytes // 4)
    app[CHAT_BODIES] = chat_bodies(settings.token_cache_bytes // 4)
    app[DOCUMENT] = document(ROUTES)
    app.cleanup_ctx.extend((_events, _prompts, _readiness))
    app.add_routes([web.route(route.method, route.path, guarded(route.handler, route.path)) for route in ROUTES])
    return app


async def _events(app: web.Application) -> AsyncIterator[None]:
    pool = EventPool(app[SETTINGS], app[INDEX])
    app[POOL] = pool
    app[REGISTRY] = registry(app[INDEX], pool, app[TRAFFIC])
    await pool.start()
    yield
    await pool.close()


async def _prompts(app: web.Application) -> AsyncIterator[None]:
    models = Models(app[SETTINGS])
    app[MODELS] = models
    yield
    await models.close()


async def _readiness(app: web.Application) -> AsyncIterator[None]:
    readiness = Readiness(app[SETTINGS], app[MODELS], app[POOL])
    app[READINESS] = readiness
    loading = asyncio.create_task(readiness.load_default_model())
    yield
    loading.cancel()
    with suppress(asyncio.CancelledError):
        await loading
