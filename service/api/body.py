"""Reads the body of a request, within its limits."""

from __future__ import annotations

import asyncio

from aiohttp import web

from service.api.errors import ApiError
from service.api.resources import LIMITS


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises ApiError 408 when it does not arrive in BODY_TIMEOUT, 413 when it is too large."""
    limits = request.app[LIMITS]
    if request.content.is_eof():  # the whole body is here: no timer is needed
        body = request.content.read_nowait()
        if len(body) > limits.max_body_bytes:
            raise limits.body_too_large()
        return body
    try:
        async with asyncio.timeout(limits.body_timeout):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.body_timeout:g} s (BODY_TIMEOUT)") from None
    except web.HTTPRequestEntityTooLarge:
        raise limits.body_too_large() from None
