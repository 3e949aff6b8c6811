"""Listens for HTTP; stops new connections first, then requests in flight, then the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import web

from service.api.resources import TRAFFIC
from service.app import create_app
from service.connection import Connection
from service.contract.settings import Settings

_DRAIN_SECONDS: Final = 0.5
"""Seconds that a stop waits for requests in flight; the whole stop takes less than a second."""
_CLOSE_SECONDS: Final = 0.1
"""Further seconds for handlers that still run, applied twice (aiohttp's shutdown_timeout)."""
_BACKLOG: Final = 1024


class ListenError(Exception):
    """The service cannot listen on its address or use its keys; the text names the variable."""


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[int]:
    """Starts the application and listens; returns the port. Raises ListenError."""
    try:
        app = create_app(settings)
    except (OSError, ValueError) as error:
        raise ListenError(f"API_KEYS_FILE={settings.api_keys_file}: {error}") from error
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

        try:
            listener = await loop.create_server(connection, settings.http_host, settings.http_port, backlog=_BACKLOG)
        except OSError as error:
            address = f"HTTP_HOST={settings.http_host}, HTTP_PORT={settings.http_port}"
            raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
        try:
            yield int(listener.sockets[0].getsockname()[1])
        finally:
            listener.close()
            # aiohttp drops unread bodies as soon as it shuts down.
            with suppress(TimeoutError):
                await asyncio.wait_for(app[TRAFFIC].wait_idle(), _DRAIN_SECONDS)
    finally:
        await runner.cleanup()
