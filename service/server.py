"""Listens for HTTP; stops new connections first, then requests in flight, then the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import web

from service.api import operations
from service.api.resources import INSTANCE_ID, READINESS, REGISTRY, TRAFFIC
from service.app import create_app
from service.connection import Connection
from service.contract.settings import Settings, SettingsError
from service.listener import Listener
from service.tls import TlsError, TlsFiles

_DRAIN_SECONDS: Final = 0.5
"""Seconds that a stop waits for requests in flight; the whole stop takes less than a second."""
_CLOSE_SECONDS: Final = 0.1
"""Further seconds for handlers that still run, applied twice (aiohttp's shutdown_timeout)."""


class ListenError(Exception):
    """The service cannot listen on its address or use its keys; the text names the variable."""


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[int]:
    """Starts the application and listens; returns the port. Raises ListenError."""
    try:
        app = create_app(settings)
    except SettingsError as error:
        raise ListenError(str(error)) from error
    except (OSError, ValueError) as error:
        raise ListenError(f"API_KEYS_FILE={settings.api_keys_file}: {error}") from error
    async with _running(app, settings) as connection:
        try:
            files = TlsFiles.of(settings)
        except TlsError as error:
            raise ListenError(str(error)) from error
        listener = Listener(connection, files, handshake_timeout=settings.header_timeout)
        async with _open(listener, settings, settings.http_port, "HTTP_PORT") as port, _metrics(app, settings):
            try:
                yield port
            finally:
                listener.close()
                # aiohttp drops unread bodies as soon as it shuts down.
                with suppress(TimeoutError):
                    await asyncio.wait_for(app[TRAFFIC].wait_idle(), _DRAIN_SECONDS)


@asynccontextmanager
async def _running(app: web.Application, settings: Settings) -> AsyncIterator[Callable[[], Connection]]:
    """Starts an application, and gives what makes a connection to it."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that disconnects aborts its request, also at the engine
        shutdown_timeout=_CLOSE_SECONDS,
    )
    try:
        await runner.setup()
        server = runner.server
        assert server is not None  # noqa: S101 - setup made it
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(
                server,
                loop,
                traffic=app[TRAFFIC],
                header_timeout=settings.header_timeout,
                send_timeout=settings.body_timeout,
                keepalive_timeout=settings.keepalive_timeout,
            )

        yield connection
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _open(listener: Listener, settings: Settings, number: int, variable: str) -> AsyncIterator[int]:
    """Listens on a port, whose setting is `variable`; gives the port. Raises ListenError."""
    try:
        port = await listener.open(settings.http_host, number)
    except TlsError as error:
        raise ListenError(str(error)) from error
    except OSError as error:
        address = f"HTTP_HOST={settings.http_host}, {variable}={number}"
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
    following = asyncio.create_task(listener.follow(), name=f"certificate of {variable}")
    try:
        yield port
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        listener.close()


@asynccontextmanager
async def _metrics(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    """Serves /metrics, /health and /ready on METRICS_PORT without keys and TLS, for scrapers of a private network."""
    if settings.metrics_port is None:
        yield
        return
    observed = web.Application()
    observed[TRAFFIC], observed[INSTANCE_ID] = app[TRAFFIC], app[INSTANCE_ID]
    observed[READINESS], observed[REGISTRY] = app[READINESS], app[REGISTRY]
    observed.add_routes(
        [
            web.get("/metrics", operations.metrics),
            web.get("/health", operations.health),
            web.get("/ready", operations.ready),
        ]
    )
    async with _running(observed, settings) as connection:
        listener = Listener(connection, handshake_timeout=settings.header_timeout)
        async with _open(listener, settings, settings.metrics_port, "METRICS_PORT"):
            yield
