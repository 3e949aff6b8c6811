"""Our server and its peer, side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from typing import Generic, NamedTuple, TypeVar

from scripts.bench.engines import Engine
from scripts.bench.servers import Server, dynamo, dynamo_python, kvcache

AnyServer = TypeVar("AnyServer", bound=Server)


class Fed(NamedTuple, Generic[AnyServer]):
    """A server and the engines that it listens to."""

    server: AnyServer
    engines: Sequence[Engine]


@asynccontextmanager
async def servers(count: int, **settings: str) -> AsyncIterator[list[Fed[Server]]]:
    """Ours, and Dynamo's where it is installed, each with `count` engines of its own, until they are not needed.

    The one that is not measured is idle, so it takes nothing from the other.
    """
    async with AsyncExitStack() as stack:
        fed: list[Fed[Server]] = []
        own = stack.enter_context(engines(count))
        fed.append(Fed(await stack.enter_async_context(kvcache(own, **settings)), own))
        if dynamo_python():
            own = stack.enter_context(engines(count))
            fed.append(Fed(await stack.enter_async_context(dynamo(own)), own))
        for pair in fed:
            for engine in pair.engines:
                engine.wait_for_subscriber()
        yield fed


@contextmanager
def engines(count: int) -> Iterator[Sequence[Engine]]:
    """Gives so many engines, until they are not needed."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Engine())) for _ in range(count)]


async def held_by(server: Server, tokens: Sequence[int], count: int, pause: float = 0.02) -> None:
    """Waits until the server says that so many engines hold some of the tokens, which it is asked after each pause.

    Raises TimeoutError after a minute.
    """
    ends = time.monotonic() + 60
    while len(held := await server.matched(tokens)) < count:
        if time.monotonic() > ends:
            raise TimeoutError(f"{server.name}: {count} engines hold a prompt, but it knows of {held}")
        await asyncio.sleep(pause)
