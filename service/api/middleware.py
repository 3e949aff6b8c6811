"""What every request to an endpoint passes: the limit on those in flight, the counters, and the form of errors."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from service.api.errors import Refusal, refusal_of_framework, refusal_of_prompt
from service.api.resources import SETTINGS, TRAFFIC
from service.api.traffic import Answered
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError

log = logging.getLogger(__name__)

_OBSERVING: Final = ("GET", "HEAD")
"""Methods that only look: health and metrics must answer when all places are taken."""


def guarded(handler: Handler, path: str) -> Handler:
    """Gives a handler that answers as this one does, or with an error in OpenAI's form, and counts it under `path`.

    aiohttp's own way to put something before handlers, its middlewares, takes a tenth of what a short request does.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        traffic = request.app[TRAFFIC]
        started = perf_counter()
        if request.method in _OBSERVING:
            response = await _answer(request, handler)
        elif traffic.in_flight >= (limit := request.app[SETTINGS].max_requests_in_flight):
            message = f"{limit} requests are in flight (MAX_REQUESTS_IN_FLIGHT); try again in a second"
            response = Refusal(429, message, headers={"Retry-After": "1"}).response()
        else:
            traffic.begin()
            try:
                response = await _answer(request, handler)
            finally:
                traffic.end()
        traffic.count(Answered(request.method, path, response.status), perf_counter() - started)
        return response

    return answer


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.response()
    except (PromptError, ModelNotFound, ModelUnavailable) as error:
        return refusal_of_prompt(error, request.app[SETTINGS].hub_retry_after).response()
    except web.HTTPException as error:
        return refusal_of_framework(error, request.path).response()
    except web.RequestPayloadError:
        return Refusal(400, "the body is not valid HTTP: its encoding is broken or it ended too early").response()
    except ConnectionError:
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        return Refusal(500, "the service failed on this request; its log says why").response()
