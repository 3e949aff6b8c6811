"""Wraps every handler: limits the requests in flight, counts them, and gives every error OpenAI's form."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from service.api.errors import ApiError, framework_error, prompt_error
from service.api.traffic import RequestKind, Traffic
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError

logger = logging.getLogger(__name__)

_UNLIMITED_METHODS: Final = ("GET", "HEAD")
"""Health and metrics must answer when the service is at its limit."""


def with_limits_and_errors(
    handler: Handler,
    path: str,
    traffic: Traffic,
    max_in_flight: int,
    retry_after: float,
    *,
    is_forwarded: Callable[[], bool] | None = None,
) -> Handler:
    """Gives a handler that answers 429 above `max_in_flight`, turns exceptions into errors, and counts under `path`.

    `retry_after` is the number of seconds after which a model that is not available is tried again. While
    `is_forwarded`, requests do not count as in flight: they wait for engines, which have limits of their own.
    A plain wrapper, because aiohttp's middlewares take a tenth of the time of a short request.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        if request.method in _UNLIMITED_METHODS or (is_forwarded is not None and is_forwarded()):
            response = await _respond(request, handler, retry_after)
        elif traffic.in_flight >= max_in_flight:
            message = f"{max_in_flight} requests are in flight (MAX_REQUESTS_IN_FLIGHT); try again in a second"
            response = ApiError(429, message, headers={"Retry-After": "1"}).response()
        else:
            traffic.begin()
            try:
                response = await _respond(request, handler, retry_after)
            finally:
                traffic.end()
        traffic.count(RequestKind(request.method, path, response.status), perf_counter() - started)
        return response

    return handle


async def _respond(request: web.Request, handler: Handler, retry_after: float) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except (PromptError, ModelNotFound, ModelUnavailable) as error:
        return prompt_error(error, retry_after).response()
    except web.HTTPException as error:
        return framework_error(error, request.path).response()
    except web.RequestPayloadError:
        return ApiError(400, "the body is not valid HTTP: its encoding is broken or it ended too early").response()
    except ConnectionError:
        raise
    except Exception:
        logger.exception("%s %s failed", request.method, request.rel_url.raw_path)
        return ApiError(500, "internal error; the service's log has the traceback").response()
