"""A simulated engine that publishes its cache events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from service.contract.endpoints import Endpoint
from service.simulation.engine import Served, SimulatedEngine
from service.simulation.publisher import Publisher


def batch_payload(events: Sequence[dict[str, Any]], rank: int = 0) -> bytes:
    """A batch as vLLM 0.33 packs it: an array of the time, the events as maps, and the rank."""
    return msgspec.msgpack.encode([time.time(), events, rank])


class Pod:
    """An engine with a name, a publisher and totals. An asynchronous context manager.

    Binds the address and the replay address of the endpoint; the topic is `kv@NAME@MODEL`.
    """

    def __init__(self, name: str, model: str, engine: SimulatedEngine, endpoint: Endpoint) -> None:
        self.name = name
        self.engine = engine
        self.requests = 0
        self.prompt_tokens = 0
        self.reused_tokens = 0
        self.evictions = 0
        self._publisher = Publisher(
            endpoint.address, endpoint.replay, topic=f"kv@{name}@{model}", binds=True, buffered=100_000
        )

    async def __aenter__(self) -> Self:
        await self._publisher.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._publisher.close()

    @property
    def last_sequence(self) -> int | None:
        """Sequence number of the last batch; None before the first."""
        return self._publisher.sequence - 1 if self._publisher.sequence else None

    async def subscribed(self) -> None:
        await self._publisher.subscribed()

    def serve(self, tokens: Sequence[int], output: Sequence[int]) -> Served:
        """Serves one request and publishes its cache events."""
        served = self.engine.serve(tokens, output)
        for events in served.batches:
            self._publisher.publish(batch_payload(events))
        self.requests += 1
        self.prompt_tokens += len(tokens)
        self.reused_tokens += served.cached_tokens
        self.evictions += served.evicted
        return served
