"""kvcache and its peer, side by side."""

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
    """A server and the engines that it subscribes to."""

    server: AnyServer
    engines: Sequence[Engine]


@asynccontextmanager
async def servers(count: int, **settings: str) -> AsyncIterator[list[Fed[Server]]]:
    """Runs kvcache, and Dynamo's indexer if it is installed, each with `count` engines of its own.

    Only one server is measured at a time; the other one is idle.
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
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Engine())) for _ in range(count)]


async def held_by(server: Server, tokens: Sequence[int], count: int, pause: float = 0.02) -> None:
    """Polls the server until `count` engines hold some of the tokens. Raises TimeoutError after a minute."""
    ends = time.monotonic() + 60
    while len(held := await server.matched(tokens)) < count:
        if time.monotonic() > ends:
            raise TimeoutError(f"{server.name}: {count} engines hold a prompt, the server has {held}")
        await asyncio.sleep(pause)
