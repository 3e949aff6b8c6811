"""Answers of server-sent events, of which a process sends a bounded number at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import hdrs, web

from service.api.errors import ApiError
from service.api.resources import TRAFFIC

MEDIA_TYPE: Final = "text/event-stream"
MAX_STREAMS: Final = 32
"""Each of them gets events every second."""


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
    """Begins an answer of events. Raises ApiError 429 if this process sends too many already."""
    traffic = request.app[TRAFFIC]
    if traffic.streams >= MAX_STREAMS:
        message = f"this process sends {MAX_STREAMS} streams of events already: end one, or ask again later"
        raise ApiError(429, message, code="too_many_streams", headers={"Retry-After": "5"})
    traffic.streams += 1
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
