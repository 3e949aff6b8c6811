"""One HTTP connection: its time limits, and responses to requests that never reach a handler.

Uses private parts of aiohttp's RequestHandler: tests/service/test_connection.py names each of them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11, _serialize_headers
from aiohttp.streams import StreamReader

from service.api.admission import LARGE_RESPONSE
from service.api.at_once import AnswersAtOnce
from service.api.errors import ApiError, framework_error
from service.api.resources import release_reservation, waiting_for_client
from service.api.traffic import RequestKind, Traffic
from service.gateway.answer import IS_LAST
from service.gateway.request_record import REQUEST_ID

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("service.access")

_LINGER_SECONDS: Final = 2.0
"""Seconds for which the rest of a rejected body is read and dropped, so that the client can read the error."""
_HEADER_BYTES: Final = 32 << 10
"""Maximum size of one header, name and value: gateways add tokens and traces."""
_HEADERS_BYTES: Final = 64 << 10
"""Maximum size of all headers of a request, and of the first bytes of its body."""
_MIN_SEND_RATE: Final = 256 << 10
"""Minimum bytes per second that a client must read of a large response, after `send_timeout`."""
_WITHOUT_BODY: Final = (204, 304)
_ERROR_BEFORE_REQUEST: Final = (
    b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nServer: kvcache\r\n"
    b"Connection: close\r\n\r\n%b"
)


class AccessLogger(AbstractAccessLogger):
    """Access log: failed requests at level info, others at debug, since a router sends thousands per second."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if REQUEST_ID not in request:  # ACCESS_LOG has its line
            _log(self.logger, request.method, request.rel_url.raw_path, response.status, time)


def _log(log: logging.Logger, method: str, path: str, status: int, seconds: float) -> None:
    level = logging.INFO if status >= 400 else logging.DEBUG
    if log.isEnabledFor(level):
        log.log(level, "%s %s %d %.1f ms", method, path, status, seconds * 1000)


class Connection(web.RequestHandler):
    """aiohttp's connection with a timeout for headers and every error in OpenAI's form.

    A request that waits for nothing is answered where its last bytes arrive: aiohttp's task is not woken, and makes
    neither a task nor a request and a response for it.
    """

    __slots__ = (
        "_at_once",
        "_ended",
        "_header_bytes",
        "_header_timeout",
        "_header_timer",
        "_send_timeout",
        "_traffic",
    )

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        *,
        traffic: Traffic,
        header_timeout: float,
        send_timeout: float,
        keepalive_timeout: float,
        at_once: Mapping[str, AnswersAtOnce] = MappingProxyType({}),
        ended: Callable[[], None] | None = None,
    ) -> None:
        """Times in seconds; `send_timeout` is the time for which a client may leave a response unread.

        `at_once` are routes by path. `ended` is called when the connection has ended.
        """
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=keepalive_timeout,
            lingering_time=_LINGER_SECONDS,
            max_field_size=_HEADER_BYTES,
            auto_decompress=False,  # api/body.py inflates within limits
            access_log=access_logger,
            access_log_class=AccessLogger,
        )
        self._traffic = traffic
        self._at_once = at_once
        self._ended = ended
        self._header_timeout = header_timeout
        self._send_timeout = send_timeout
        self._header_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._traffic.connected(self)
        self._start_timer()
        # The system closes a connection if the client does not read its response.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._send_timeout * 1000))
            with suppress(OSError):
                transport.get_extra_info("socket").setsockopt(*option)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        self._traffic.disconnected(self)
        if self._ended is not None:
            self._ended()

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            super().data_received(data)
        else:
            self._waiter = None  # aiohttp would wake its task for each request
            try:
                super().data_received(data)
            finally:
                self._waiter = waiter
            if self._messages:
                if self._answer_at_once():
                    self._header_bytes = 0
                    self._stop_timer()
                    return
                waiter.set_result(None)
        if not self._awaits_headers():
            self._header_bytes = 0
            self._stop_timer()
            return
        self._header_bytes += len(data)
        if self._header_bytes > _HEADERS_BYTES:
            self._end(ApiError(431, f"the headers are larger than {_HEADERS_BYTES} bytes"))
        elif self._header_timer is None:
            self._start_timer()

    def _answer_at_once(self) -> bool:
        """Answers the request that has arrived; False if it goes the ordinary way, with nothing changed."""
        message: Any
        payload: Any
        message, payload = self._messages[0]
        if type(payload) is not StreamReader:  # no body, or no valid request
            return False
        route, transport = self._at_once.get(message.path), self.transport
        if (
            route is None
            or route.method != message.method
            or transport is None
            or len(self._messages) > 1
            or not payload.is_eof()
            or len(payload._buffer) != 1
            or not self._is_plain(message)
            or (route.needs_certificate and not transport.get_extra_info("peercert"))
        ):
            return False
        started = self._loop.time()
        found = route.answer(message.headers, payload._buffer[0], self._remote())
        if found is None:
            return False
        head, answer = found
        self._messages.clear()
        if self._parser is not None:
            self._parser.message_consumed()
        date = rfc822_formatted_time().encode()
        transport.write(b"%b%d\r\nDate: %b\r\n\r\n%b" % (head, len(answer), date, answer))
        self._keep_open()
        self._traffic.answered_on(self)
        _log(access_logger, message.method, message.path, HTTPStatus.OK, self._loop.time() - started)
        return True

    def _is_plain(self, message: RawRequestMessage) -> bool:
        """Whether a request needs nothing of the connection but that it goes on."""
        headers = message.headers
        return (
            message.version == HttpVersion11
            and not (message.should_close or message.upgrade or self._paused)
            and not (self._traffic.is_ending or self._traffic.surplus)
            and hdrs.CONTENT_ENCODING not in headers
            and hdrs.EXPECT not in headers
        )

    def _keep_open(self) -> None:
        """Begins the keep-alive timeout anew, as aiohttp does after a request."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def _remote(self) -> str:
        """The address that requests of this connection come from, as aiohttp's `request.remote`."""
        name = self.peername
        return str(name[0] if isinstance(name, (list, tuple)) else name or "")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if type(resp) is not web.Response and isinstance(resp, web.HTTPException):
            # An error of the router: handlers use OpenAI's form themselves.
            resp = framework_error(resp, request.path).response()
            # Paths invented by clients must not become metric series.
            self._traffic.count(RequestKind("other", "other", resp.status), 0.0)
        if not resp.prepared:
            resp.headers[hdrs.SERVER] = "kvcache"
            if IS_LAST in request or self._traffic.ends_connection(self):
                resp.force_close()
        try:
            if type(resp) is web.Response and self._is_small(request, resp):
                return resp, self._send_small(request, resp, start_time)
            size = resp.content_length or 0
            if size <= LARGE_RESPONSE and not (self._paused and type(resp) is web.Response):
                return await super().finish_response(request, resp, start_time)
            return await self._send_large(request, resp, start_time, size)
        finally:
            release_reservation(request)
            self._traffic.answered_on(self)
            if self._traffic.is_ending:
                self.close()

    def _is_small(self, request: web.BaseRequest, resp: web.Response) -> bool:
        """Whether a response is a body that fits into the buffers, over a connection that goes on and is read."""
        body = resp.body
        return (
            type(body) is bytes
            and 0 < len(body) <= LARGE_RESPONSE
            and resp.keep_alive is not False
            and request.keep_alive
            and request.version == HttpVersion11
            and request.method != hdrs.METH_HEAD
            and resp.status not in _WITHOUT_BODY
            and not (resp.prepared or resp.chunked or resp.compression or resp._cookies or self._upgraded)
            and not self._paused
        )

    def _send_small(self, request: web.BaseRequest, resp: web.Response, start_time: float | None) -> bool:
        """Sends a small response in one write; True if the client has left.

        The same bytes as from aiohttp's finish_response, which takes a tenth of the time of a short request for them.
        """
        request._finish()
        body = resp.body
        headers = resp.headers
        headers[hdrs.CONTENT_LENGTH] = str(len(body))  # type: ignore[arg-type] # bytes, as _is_small has checked
        headers.setdefault(hdrs.CONTENT_TYPE, "application/octet-stream")
        headers[hdrs.DATE] = rfc822_formatted_time()
        resp._keep_alive = True
        resp._eof_sent = True
        transport = self.transport
        has_left = transport is None or transport.is_closing()
        if not has_left:
            transport.write(_serialize_headers(f"HTTP/1.1 {resp.status} {resp.reason}", headers) + body)  # type: ignore[union-attr, operator]
        self.log_access(request, resp, start_time)
        return has_left

    async def _send_large(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None, size: int
    ) -> tuple[web.StreamResponse, bool]:
        seconds = self._send_timeout + size / _MIN_SEND_RATE
        try:
            async with asyncio.timeout(seconds):
                with waiting_for_client(request, self._abort):
                    return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            logger.info("%s did not read its response within %.0f s", request.remote, seconds)
            self._abort()
            return resp, True

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

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
        # Reading the rest of a body with a broken encoding raises this again.
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def _awaits_headers(self) -> bool:
        # aiohttp resolves `_waiter` when the headers of a request are complete. Until then the connection counts as
        # idle, even if bytes were received, and only the keep-alive timeout would close it.
        return self._waiter is not None and not self._waiter.done()

    def _start_timer(self) -> None:
        self._header_timer = self._loop.call_later(self._header_timeout, self._end_late)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end_late(self) -> None:
        self._header_timer = None
        if self._awaits_headers():
            error = ApiError(408, f"the headers did not arrive within {self._header_timeout:g} s")
            self._end(error if self._header_bytes else None)

    def _end(self, error: ApiError | None) -> None:
        """Closes a connection that has sent no complete request, after an error response if one is given."""
        if self.transport is not None and error is not None:
            reason, body = HTTPStatus(error.status).phrase.encode(), error.body()
            self.transport.write(_ERROR_BEFORE_REQUEST % (error.status, reason, len(body), body))
        self.force_close()
