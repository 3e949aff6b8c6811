"""Our server and its peer, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from scripts.bench.engines import Engine
from scripts.bench.servers import Dynamo, Kvcache, Server, dynamo_python


@asynccontextmanager
async def servers(count: int) -> AsyncIterator[list[tuple[Server, list[Engine]]]]:
    """Starts ours, and Dynamo's where it is installed, each with `count` engines of its own, and ends them all.

    The one that is not measured is idle, so it takes nothing from the other.
    """
    started: list[tuple[Server, list[Engine]]] = []
    engines: list[Engine] = []
    try:
        for start in (Kvcache.start, Dynamo.start)[: 2 if dynamo_python() else 1]:
            own = [Engine() for _ in range(count)]
            engines += own
            started.append((await start(own), own))
            for engine in own:
                engine.wait_for_subscriber()
        yield started
    finally:
        for server, _ in started:
            await server.close()
        for engine in engines:
            engine.close()


async def held_by(server: Server, tokens: Sequence[int], engines: int) -> None:
    """Waits until the server says that so many engines hold some of the tokens."""
    async with asyncio.timeout(120):
        while len(await server.matched(tokens)) < engines:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.02)
