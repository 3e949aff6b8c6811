from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from service.contract.endpoints import Endpoint
from service.events.pool import EventPool, StreamReport
from service.index.base import Rank
from service.index.memory import MemoryIndex
from tests.waiting import PATIENCE, until


@dataclass
class Listening:
    """A pool with its index, listening to real sockets."""

    pool: EventPool
    index: MemoryIndex
    sequences: dict[Rank, int] = field(default_factory=dict)

    def states(self) -> dict[Rank, StreamReport]:
        return {state.rank: state for state in self.pool.streams()}

    async def heard(self, last: Mapping[Rank, int]) -> None:
        """Waits until the last batch of each rank has been applied."""
        await until(lambda: {rank: state.last_sequence for rank, state in self.states().items()} == last)


Listen: TypeAlias = Callable[..., Awaitable[Listening]]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Starts a pool on the endpoints given.

    Replay sockets are checked soon, so that no test waits for seconds, and may take as long as a slow machine does.
    """
    async with AsyncExitStack() as stack:

        async def start(*endpoints: Endpoint, max_blocks: int = 1_000_000, **settings: Any) -> Listening:
            index = MemoryIndex(max_blocks)
            usual = {"topic": "kv@", "default_model": "m", "first_check": 0.1, "replay_timeout": PATIENCE}
            values: dict[str, Any] = usual | settings
            pool = EventPool(endpoints, index, **values)
            stack.push_async_callback(pool.close)
            await pool.start()
            return Listening(pool, index)

        yield start
