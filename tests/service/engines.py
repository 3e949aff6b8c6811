"""Simulated engines for tests, on free ports of 127.0.0.1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, TypeAlias

from service.contract.endpoints import Endpoint
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from service.simulation.server import EngineOptions, EngineServer, serving

MODEL = "builtin/demo"

StartEngine: TypeAlias = Callable[..., Awaitable[EngineServer]]


@cache
def _models() -> Models:
    """The models of all engines of a process: to load one takes longer than to start an engine."""
    return Models(PromptOptions())


@asynccontextmanager
async def engine_starter() -> AsyncIterator[StartEngine]:
    """Gives a function that starts engines, with options of EngineOptions; all end with the context."""
    async with AsyncExitStack() as stack:
        model = await _models().get(MODEL)

        async def start(**options: Any) -> EngineServer:
            made = EngineOptions(**{"served_models": [MODEL], "kept_requests": 1000, **options})
            return await stack.enter_async_context(serving(made, model))

        yield start


def endpoints_of(*engines: EngineServer) -> tuple[Endpoint, ...]:
    """The event endpoints of engines, for ZMQ_ENDPOINT."""
    return tuple(
        Endpoint(rank.publisher.address, pod=engine.pod, replay=rank.publisher.replay)
        for engine in engines
        for rank in engine.ranks
    )


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a chat request with one message."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
