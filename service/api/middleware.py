"""Wraps every handler: admits requests, counts them, and converts every error to OpenAI's form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from service.api.admission import LARGE_RESPONSE, Admission
from service.api.errors import ApiError, framework_error, prompt_error
from service.api.resources import release_reservation, set_reservation
from service.api.traffic import RequestKind, Traffic
from service.gateway.answer import IS_LAST
from service.gateway.engine_request import KEY_NAME
from service.gateway.request_record import RECORD
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError

logger = logging.getLogger(__name__)

_UNLIMITED_METHODS: Final = ("GET", "HEAD")
"""Health and metrics must answer even if the service is at its limit."""


def with_limits_and_errors(
    handler: Handler,
    path: str,
    traffic: Traffic,
    admission: Admission,
    retry_after: float,
    *,
    is_forwarded: Callable[[], bool] | None = None,
    authorize: Callable[[Mapping[str, str]], str] | None = None,
) -> Handler:
    """Wraps a handler: reserves, converts exceptions to errors, and counts requests under `path`.

    `retry_after` is the number of seconds until an unavailable model is tried again. If `is_forwarded`, requests need
    no place: they wait for engines, which have their own limits. `authorize` gives the name of the API key in the
    headers, or raises ApiError if none there is allowed, before the body is read. A plain wrapper, because aiohttp's
    middlewares take a tenth of the time of a short request.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        if authorize is not None:
            try:
                request[KEY_NAME] = authorize(request.headers)
            except ApiError as error:
                traffic.count(RequestKind(request.method, path, error.status), perf_counter() - started)
                return error.response()
        forwarded = is_forwarded is not None and is_forwarded()
        if request.method in _UNLIMITED_METHODS and not forwarded:
            response = await _respond(request, handler, retry_after)
        elif forwarded:
            set_reservation(request, admission.reserve(request.remote or "", needs_place=False))
            if traffic.ends_connection(request.protocol):
                request[IS_LAST] = True
            traffic.begin()
            try:
                response = await _respond(request, handler, retry_after)
            except BaseException:
                release_reservation(request)
                raise
            finally:
                traffic.end()
        else:
            reservation = admission.reserve(request.remote or "")
            set_reservation(request, reservation)
            traffic.begin()
            try:
                try:
                    response = await handler(request)
                    # A small response fits into the system's buffers. A streamed one has another type.
                    if type(response) is web.Response and (size := len(response.body or b"")) > LARGE_RESPONSE:  # type: ignore[arg-type] # always bytes here
                        reservation.charge(size)
                except Exception as error:  # not in _respond: one more coroutine for every short request
                    response = _error_response(error, request, retry_after)
            except BaseException:
                release_reservation(request)
                raise
            finally:
                traffic.end()
        trace_id = request[RECORD].trace.id if forwarded else None
        traffic.count(RequestKind(request.method, path, response.status), perf_counter() - started, trace_id)
        return response

    return handle


async def _respond(request: web.Request, handler: Handler, retry_after: float) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        return _error_response(error, request, retry_after)


def _error_response(error: Exception, request: web.Request, retry_after: float) -> web.Response:
    """The response to a request whose handler raised an error. Raises ConnectionError again."""
    match error:
        case ApiError():
            return error.response()
        case PromptError() | ModelNotFound() | ModelUnavailable():
            return prompt_error(error, retry_after).response()
        case web.HTTPException():
            return framework_error(error, request.path).response()
        case web.RequestPayloadError():
            return ApiError(400, "the body is not valid HTTP: its encoding is broken or it ended too early").response()
        case ConnectionError():
            raise error
    logger.error("%s %s failed", request.method, request.rel_url.raw_path, exc_info=error)
    return ApiError(500, "internal error; the service's log has the traceback").response()
