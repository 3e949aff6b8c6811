"""Answers of server-sent events, of which a process sends a bounded number at once, and to one client half of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import hdrs, web

from service.api.errors import ApiError
from service.api.resources import TRAFFIC
from service.gateway.engine_request import KEY_NAME

MEDIA_TYPE: Final = "text/event-stream"
MAX_STREAMS: Final = 32
"""Each of them gets events every second."""
MAX_STREAMS_PER_CLIENT: Final = 16
"""The page has two."""


class EventStream:
    """An answer to one client, which ends when the client leaves. Methods raise ConnectionError then."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def send(self, event: str, data: bytes) -> None:
        """Sends JSON; waits while the client does not read."""
        await self._response.write(b"event: %b\ndata: %b\n\n" % (event.encode(), data))

    async def keep_alive(self) -> None:
        """Sends a comment."""
        await self._response.write(b": keep-alive\n\n")


def wants_events(request: web.Request) -> bool:
    """Whether the client asks for events in place of one answer."""
    return MEDIA_TYPE in request.headers.get(hdrs.ACCEPT, "")


@asynccontextmanager
async def event_stream(request: web.Request) -> AsyncIterator[EventStream]:
    """Begins an answer of events. Raises ApiError 429 if this process sends too many already, or the client has."""
    traffic, clients = request.app[TRAFFIC], _clients(request)
    if traffic.streams >= MAX_STREAMS:
        raise _too_many(f"this process sends {MAX_STREAMS} streams of events already")
    for client in clients:
        if traffic.streams_of[client] >= MAX_STREAMS_PER_CLIENT:
            raise _too_many(f"{client} has {MAX_STREAMS_PER_CLIENT} streams of events of this process already")
    traffic.streams += 1
    traffic.streams_of.update(clients)
    try:
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: MEDIA_TYPE,
                hdrs.CACHE_CONTROL: "no-store",
                "X-Accel-Buffering": "no",  # nginx would collect events
            }
        )
        await response.prepare(request)
        traffic.answered_on(request.protocol)  # a stop does not wait for its end
        yield EventStream(response)
    finally:
        traffic.streams -= 1
        traffic.streams_of -= Counter(clients)  # forgets those that have none left


def _clients(request: web.Request) -> list[str]:
    """Whom a stream counts for. A Unix socket has no address: the other workers of this machine ask there."""
    address, key = request.remote, request.get(KEY_NAME)
    return [*([address] if address else []), *([f"the API key {key!r}"] if key is not None else [])]


def _too_many(what: str) -> ApiError:
    message = f"{what}: end one, or ask again later"
    return ApiError(429, message, code="too_many_streams", headers={"Retry-After": "5"})
