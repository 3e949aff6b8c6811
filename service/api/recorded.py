"""Records each request for the pods, whatever comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from service.api.errors import ErrorBody
from service.gateway.request_record import ID_HEADER, REQUEST_ID, RequestRecord, RequestRecords
from service.tracing.base import enter, leave

_CLIENT_LEFT = 499
"""As in the logs of nginx."""
_error = msgspec.json.Decoder(ErrorBody)


def recorded(handler: Handler, route: str, records: RequestRecords, is_forwarded: Callable[[], bool]) -> Handler:
    """Wraps the whole handler of an endpoint that forwards requests, with its limits and errors."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if not is_forwarded():
            return await handler(request)
        record = records.begin(request, route)
        token = enter(record.trace)
        try:
            response = await handler(request)
            if isinstance(response, web.Response):
                _note_own(record, request, response)
        except BaseException as error:
            _note_failure(record, request, error)
            raise
        else:
            return response
        finally:
            leave(token)
            records.end(record)

    return handle


def _note_own(record: RequestRecord, request: web.Request, response: web.Response) -> None:
    """Notes an answer that is no engine's."""
    body = response.body if isinstance(response.body, bytes) else b""
    record.status, record.bytes = response.status, len(body)
    if response.status >= 400:
        record.error = _error.decode(body).error.message
    if REQUEST_ID in request:
        response.headers[ID_HEADER] = record.id


def _note_failure(record: RequestRecord, request: web.Request, error: BaseException) -> None:
    """Notes a request without an answer, or whose answer broke off."""
    transport = request.transport
    is_gone = transport is None or transport.is_closing()
    if record.error is not None:  # the engine broke off, and so the client's connection was closed
        return
    if is_gone and isinstance(error, (asyncio.CancelledError, ConnectionError)):
        record.client_left = True
        record.status = record.status or _CLIENT_LEFT
    else:
        record.error = "the service stopped" if isinstance(error, asyncio.CancelledError) else type(error).__name__
