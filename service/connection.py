"""One HTTP connection: its time limits, and responses to requests that never reach a handler.

Uses private parts of aiohttp's RequestHandler: tests/service/test_connection.py names each of them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from service.api.errors import ApiError, framework_error
from service.api.traffic import RequestKind, Traffic

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("service.access")

_LINGER_SECONDS: Final = 2.0
"""How long the rest of a rejected body is read and dropped, so that the client can read the error."""
_HEADER_TIMEOUT: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b"
)


class AccessLogger(AbstractAccessLogger):
    """A line per request: failed ones at level info, others at debug, since a router sends thousands a second."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        level = logging.INFO if response.status >= 400 else logging.DEBUG
        if self.logger.isEnabledFor(level):
            self.logger.log(
                level, "%s %s %d %.1f ms", request.method, request.rel_url.raw_path, response.status, time * 1000
            )


class Connection(web.RequestHandler):
    """aiohttp's connection, with a time limit on headers and with every error in OpenAI's form."""

    __slots__ = ("_header_timeout", "_header_timer", "_received", "_send_timeout", "_traffic")

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        *,
        traffic: Traffic,
        header_timeout: float,
        send_timeout: float,
        keepalive_timeout: float,
    ) -> None:
        """Times in seconds; `send_timeout` is how long a client may leave a response unread."""
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=keepalive_timeout,
            lingering_time=_LINGER_SECONDS,
            access_log=access_logger,
            access_log_class=AccessLogger,
        )
        self._traffic = traffic
        self._header_timeout = header_timeout
        self._send_timeout = send_timeout
        self._header_timer: asyncio.TimerHandle | None = None
        self._received = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._start_timer()
        # The system ends a connection whose client does not read its response.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._send_timeout * 1000))
            with suppress(OSError):
                transport.get_extra_info("socket").setsockopt(*option)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received = True
        super().data_received(data)
        if not self._awaits_headers():
            self._stop_timer()
        elif self._header_timer is None:
            self._start_timer()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # from the router; handlers give OpenAI's form themselves
            resp = framework_error(resp, request.path).response()
            # Paths that clients invent must not become series of metrics.
            self._traffic.count(RequestKind("other", "other", resp.status), 0.0)
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
            logger.error("a request from %s failed", request.remote, exc_info=exc)
            response = ApiError(status, "internal error; the service's log has the traceback").response()
        else:
            logger.debug("invalid HTTP from %s: %r", request.remote, message)
            reason = (message or "").partition("\n")[0].partition(":")[0]
            response = ApiError(status, f"the request is not valid HTTP: {reason}", code="invalid_http").response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        # The rest of a body with a broken encoding is dropped, and raises this again.
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def _awaits_headers(self) -> bool:
        # aiohttp resolves `_waiter` when the headers of a request are complete. Until then the connection counts as
        # idle, whatever was received, and only the timeout of idle connections would end it.
        return self._waiter is not None and not self._waiter.done()

    def _start_timer(self) -> None:
        self._header_timer = self._loop.call_later(self._header_timeout, self._end)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end(self) -> None:
        self._header_timer = None
        if self.transport is None or not self._awaits_headers():
            return
        if self._received:
            body = ApiError(408, f"the headers did not arrive within {self._header_timeout:g} s").body()
            self.transport.write(_HEADER_TIMEOUT % (len(body), body))
        self.force_close()
