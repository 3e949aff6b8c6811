"""The listening side of HTTP: connections, their time limits, and requests too broken to reach a handler."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from service.api.errors import Refusal, refusal_of_framework
from service.api.resources import SETTINGS, TRAFFIC
from service.api.traffic import Answered, Traffic

log = logging.getLogger(__name__)
access_log = logging.getLogger("service.access")

_DRAIN_SECONDS: Final = 0.5
"""How long a stop waits for requests in flight: all of it is to take less than a second."""
_CLOSE_SECONDS: Final = 0.1
"""How long it then waits for what still runs, twice (aiohttp's shutdown_timeout)."""
_LINGER_SECONDS: Final = 2.0
"""How long the rest of a refused body is read away, so that the client gets to see why."""
_BACKLOG: Final = 1024
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b"
)


class ListenError(Exception):
    """The address to listen on cannot be had; the text names the variables that give it."""


class AccessLogger(AbstractAccessLogger):
    """A line per request that failed at info, per other request at debug: a router asks thousands of times a second."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        level = logging.INFO if response.status >= 400 else logging.DEBUG
        if self.logger.isEnabledFor(level):
            self.logger.log(
                level, "%s %s %d %.1f ms", request.method, request.rel_url.raw_path, response.status, time * 1000
            )


class Connection(web.RequestHandler):
    """One client connection: aiohttp's, with a time limit on headers and every error in OpenAI's form."""

    __slots__ = ("_answer_timeout", "_header_timeout", "_headers_due", "_heard", "_traffic")

    def __init__(
        self, *args: Any, traffic: Traffic, header_timeout: float, answer_timeout: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._traffic = traffic
        self._header_timeout = header_timeout
        self._answer_timeout = answer_timeout
        self._headers_due: asyncio.TimerHandle | None = None
        self._heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._arm()
        # A client that does not read its answer: the system ends the connection when no byte of it gets through.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            limit = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._answer_timeout * 1000))
            with suppress(OSError):
                transport.get_extra_info("socket").setsockopt(*limit)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)
        if not self._awaits_headers():
            self._disarm()
        elif self._headers_due is None:
            self._arm()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # that of an endpoint has its form
            resp = refusal_of_framework(resp, request.path).response()
            # What clients make up must not become series of metrics.
            self._traffic.count(Answered("other", "other", resp.status), 0.0)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun and cannot become an error")
        if status >= 500:
            log.error("a request from %s failed", request.remote, exc_info=exc)
            response = Refusal(status, "the service failed on this request; its log says why").response()
        else:
            log.debug("not HTTP, from %s: %r", request.remote, message)
            reason = (message or "").partition("\n")[0].partition(":")[0]
            response = Refusal(status, f"the request is not valid HTTP: {reason}", code="invalid_http").response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        # The rest of a body that was refused as broken is read away, and is still broken.
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def _awaits_headers(self) -> bool:
        # aiohttp's parser hands a request over when its headers are whole; until then, whatever came, the connection
        # waits as an idle one does, and only the limit for idle ones would end it.
        return self._waiter is not None and not self._waiter.done()

    def _arm(self) -> None:
        self._headers_due = self._loop.call_later(self._header_timeout, self._cut_off)

    def _disarm(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _cut_off(self) -> None:
        self._headers_due = None
        if self.transport is None or not self._awaits_headers():
            return
        if self._heard:
            body = Refusal(408, f"the headers did not come within {self._header_timeout:g} s").body()
            self.transport.write(_TOO_SLOW % (len(body), body))
        self.force_close()


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[int]:
    """Starts the application and listens where its settings say; gives the port.

    On leaving it stops listening, lets requests in flight finish, and stops the application. Raises ListenError.
    """
    settings = app[SETTINGS]
    runner = web.AppRunner(app, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None  # noqa: S101 - there is one after setup
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(
                server,
                loop=loop,
                traffic=app[TRAFFIC],
                header_timeout=settings.header_timeout,
                answer_timeout=settings.body_timeout,
                keepalive_timeout=settings.keepalive_timeout,
                lingering_time=_LINGER_SECONDS,
                access_log=access_log,
                access_log_class=AccessLogger,
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
            # From the moment that it shuts down, aiohttp drops what still comes of bodies.
            with suppress(TimeoutError):
                await asyncio.wait_for(app[TRAFFIC].settled(), _DRAIN_SECONDS)
    finally:
        await runner.cleanup()
