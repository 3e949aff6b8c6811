"""GET /requests: the requests that are routed, as they are routed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import web

from service.api.event_stream import event_stream
from service.api.resources import LISTENERS, SIBLINGS
from service.routing.request_listeners import Listener
from service.workers.siblings import Siblings

logger = logging.getLogger(__name__)
_PATH: Final = "/requests"
_DATA: Final = b"data: "
_KEEP_ALIVE_SECONDS: Final = 15.0


async def requests(request: web.Request) -> web.StreamResponse:
    """Sends an event for each request that is routed from now on, for its first token, and for its end."""
    async with event_stream(request) as events:
        with request.app[LISTENERS].listening() as listener:
            async with _with_others(request.app.get(SIBLINGS), listener):
                await events.keep_alive()  # tells the client that it listens
                while True:
                    try:
                        async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                            waiting, dropped = await listener.read()
                    except TimeoutError:
                        await events.keep_alive()
                        continue
                    if dropped:
                        await events.send("dropped", msgspec.json.encode({"dropped": dropped}))
                    for told in waiting:
                        await events.send("request", told)


@asynccontextmanager
async def _with_others(siblings: Siblings | None, listener: Listener) -> AsyncIterator[None]:
    """Hears also of the requests that other workers of this machine route."""
    others = siblings.lines(_PATH) if siblings is not None else []
    hearing = [asyncio.create_task(_hear(lines, listener)) for lines in others]
    try:
        yield
    finally:
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)


async def _hear(lines: AsyncIterator[bytes], listener: Listener) -> None:
    event = b""
    async for line in lines:
        if line.startswith(b"event: "):
            event = line.removeprefix(b"event: ").strip()
        elif line.startswith(_DATA) and event == b"request":
            listener.put(line.removeprefix(_DATA).strip())
