"""Listens for HTTP; stops new connections first, then requests in flight, then the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import web

from service.api import for_siblings, operations
from service.api.at_once import AT_ONCE, AnswersAtOnce
from service.api.resources import READINESS, SIBLINGS, TRAFFIC
from service.app import create_app
from service.connection import Connection
from service.contract.settings import Settings, SettingsError
from service.drain import drain
from service.listener import HandedListener, Listener
from service.tls import TlsError, TlsFiles
from service.unix_socket import unix_socket
from service.workers.acceptor import WorkerMessage
from service.workers.handed_connections import HandedConnections
from service.workers.place import Place

_HTTP: Final = 0
_OBSERVED: Final = 1
_SOCKET: Final = 2
"""The numbers of HTTP_PORT, METRICS_PORT and HTTP_SOCKET among what workers share."""
_WATCH_SECONDS: Final = 1.0
_FIRST_WATCH_SECONDS: Final = 0.05
"""Seconds between two looks at a worker's readiness, and before it is ready for the first time."""
_CLOSE_SECONDS: Final = 0.1
"""Further seconds for handlers that still run, applied twice (aiohttp's shutdown_timeout)."""


class ListenError(Exception):
    """The service cannot listen on its address or use its keys; the text names the variable."""


class Worker(msgspec.Struct, frozen=True):
    """This process as one of several workers: its place, and what its supervisor hands over."""

    place: Place
    handed: HandedConnections


@asynccontextmanager
async def listening(settings: Settings, worker: Worker | None = None) -> AsyncIterator[int]:
    """Starts the application, and listens or takes a worker's connections; returns the port. Raises ListenError."""
    try:
        app = create_app(settings, worker.place if worker is not None else None)
    except SettingsError as error:
        raise ListenError(str(error)) from error
    except (OSError, ValueError) as error:
        raise ListenError(f"API_KEYS_FILE={settings.api_keys_file}: {error}") from error
    async with _running(app, settings, worker, app[AT_ONCE]) as connection:
        try:
            files = TlsFiles.of(settings)
        except TlsError as error:
            raise ListenError(str(error)) from error
        listener = _listener(connection, settings, files, worker, _HTTP)
        http_port = settings.http_port if worker is None else worker.place.port
        async with (
            _open(listener, settings, http_port, "HTTP_PORT") as port,
            _at_socket(connection, settings, worker) as at_socket,
            _metrics(app, settings, worker),
            _as_worker(app, worker),
        ):
            try:
                yield port
            finally:
                seconds = settings.drain_timeout
                no_more_connections = worker.handed.last_taken(seconds / 2) if worker is not None else None
                await drain(app[TRAFFIC], [listener, *at_socket], seconds, no_more_connections)


@asynccontextmanager
async def _running(
    app: web.Application,
    settings: Settings,
    worker: Worker | None,
    at_once: Mapping[str, AnswersAtOnce] = MappingProxyType({}),
) -> AsyncIterator[Callable[[], Connection]]:
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
        ended = partial(worker.handed.tell, WorkerMessage.CONNECTION_ENDED) if worker is not None else None

        def connection() -> Connection:
            return Connection(
                server,
                loop,
                traffic=app[TRAFFIC],
                header_timeout=settings.header_timeout,
                send_timeout=settings.body_timeout,
                keepalive_timeout=settings.keepalive_timeout,
                at_once=at_once,
                ended=ended,
            )

        yield connection
    finally:
        await runner.cleanup()


def _listener(
    connection: Callable[[], Connection], settings: Settings, files: TlsFiles | None, worker: Worker | None, number: int
) -> Listener:
    if worker is None:
        return Listener(connection, files, handshake_timeout=settings.header_timeout)
    return HandedListener(
        connection, files, handshake_timeout=settings.header_timeout, handed=worker.handed, number=number
    )


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
async def _at_socket(
    connection: Callable[[], Connection], settings: Settings, worker: Worker | None
) -> AsyncIterator[list[Listener]]:
    """Answers on HTTP_SOCKET, if it is set, without TLS; gives its listener. Raises ListenError."""
    if settings.http_socket is None:
        yield []
        return
    listener = _listener(connection, settings, None, worker, _SOCKET)
    with ExitStack() as stack:
        if worker is not None:
            await listener.open("", 0)
        else:
            try:
                await listener.open_at(stack.enter_context(unix_socket(settings.http_socket)))
            except OSError as error:
                where = f"HTTP_SOCKET={settings.http_socket}"
                raise ListenError(f"cannot listen on {where}: {error.strerror or error}") from error
        try:
            yield [listener]
        finally:
            listener.close()


@asynccontextmanager
async def _metrics(app: web.Application, settings: Settings, worker: Worker | None) -> AsyncIterator[None]:
    """Serves /metrics, /health and /ready on METRICS_PORT without keys and TLS, for scrapers of a private network."""
    if settings.metrics_port is None:
        yield
        return
    observed = web.Application()
    for key, value in app.items():
        observed[key] = value
    observed.add_routes(
        [
            web.get("/metrics", operations.metrics),
            web.get("/health", operations.health),
            web.get("/ready", operations.ready),
        ]
    )
    async with _running(observed, settings, worker) as connection:
        listener = _listener(connection, settings, None, worker, _OBSERVED)
        async with _open(listener, settings, settings.metrics_port, "METRICS_PORT"):
            yield


@asynccontextmanager
async def _as_worker(app: web.Application, worker: Worker | None) -> AsyncIterator[None]:
    """Answers the siblings of a worker, and tells its supervisor that it listens, and whether it is ready."""
    if worker is None:
        yield
        return
    runner = web.AppRunner(for_siblings.application(app), access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    path = worker.place.socket_of(worker.place.number)
    path.unlink(missing_ok=True)  # of a predecessor
    try:
        await web.UnixSite(runner, str(path)).start()
        worker.handed.take_surplus(app[TRAFFIC].end_connections)
        worker.handed.tell(WorkerMessage.LISTENING)
        telling = asyncio.create_task(_tell_readiness(app, worker), name="readiness of this worker")
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
    finally:
        await runner.cleanup()
        await app[SIBLINGS].close()


async def _tell_readiness(app: web.Application, worker: Worker) -> None:
    """Tells it again and again: a worker that tells nothing hangs, and is killed."""
    while True:
        is_ready = not app[READINESS].reasons()
        worker.handed.tell(WorkerMessage.READY if is_ready else WorkerMessage.NOT_READY)
        await asyncio.sleep(_WATCH_SECONDS if is_ready else _FIRST_WATCH_SECONDS)
