from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from service.events.endpoint import Endpoint
from service.events.pool import EventPool
from service.events.stream import StreamState
from service.index.base import Prompt, Rank
from service.index.memory import MemoryIndex
from service.settings import Settings


@dataclass(frozen=True)
class Truth:
    """What real vLLM answered when the events of a recording had been published."""

    model: str
    block_size: int
    probes: list[dict[str, Any]]
    last_sequence: dict[Rank, int]

    @classmethod
    def read(cls, path: Path) -> Truth:
        document = json.loads(path.read_text())
        model = next(iter(document["pods"].values()))["topic"].split("@", 2)[2]
        last = {_rank(name, model): pod["last_seq"] for name, pod in document["pods"].items()}
        return cls(model, document["block_size"], document["probes"], last)

    def wrong(self, index: MemoryIndex) -> list[str]:
        """The probes that the index answers otherwise, a line each."""
        return [line for line, _ in self._differences(index)]

    def wrong_ranks(self, index: MemoryIndex) -> set[Rank]:
        return {rank for _, rank in self._differences(index)}

    def _differences(self, index: MemoryIndex) -> list[tuple[str, Rank]]:
        differences = []
        for number, probe in enumerate(self.probes):
            prompt = Prompt(self.model, array("I", probe["tokens"]), probe.get("lora_name"), probe.get("cache_salt"))
            held = {match.rank: match.tokens // self.block_size for match in index.match(prompt)}
            for name, blocks in probe["blocks"].items():
                rank = _rank(name, self.model)
                if held.pop(rank, 0) != blocks:
                    differences.append((f"probe {number}: {name} holds {blocks}", rank))
            differences += [(f"probe {number}: {rank} was never heard of", rank) for rank in held]
        return differences


def _rank(name: str, model: str) -> Rank:
    pod, _, number = name.partition("#dp")
    return Rank(pod, model, int(number or 0))


@dataclass
class Listening:
    """A pool with its index, listening to real sockets."""

    pool: EventPool
    index: MemoryIndex
    sequences: dict[Rank, int] = field(default_factory=dict)

    def states(self) -> dict[Rank, StreamState]:
        return {state.rank: state for state in self.pool.streams()}

    async def heard(self, last: dict[Rank, int]) -> None:
        """Waits until the last batch of each rank has been applied."""
        await until(lambda: {rank: state.last_sequence for rank, state in self.states().items()} == last)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until a condition holds; fails when it does not in time."""
    async with asyncio.timeout(seconds):
        for _ in iter(condition, True):
            await asyncio.sleep(0.005)


Listen: TypeAlias = Callable[..., Awaitable[Listening]]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Starts a pool on the endpoints given, with changed settings if any."""
    async with AsyncExitStack() as stack:

        async def start(*endpoints: Endpoint, max_blocks: int = 1_000_000, **settings: Any) -> Listening:
            index = MemoryIndex(max_blocks)
            pool = EventPool(Settings(zmq_endpoint=endpoints, **settings), index)
            stack.push_async_callback(pool.close)
            await pool.start()
            return Listening(pool, index)

        yield start
