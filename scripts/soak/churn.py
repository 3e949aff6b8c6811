"""Engines that connect, store, evict, clear, restart under new numbers, and go."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from time import time
from typing import Any

import msgspec
import zmq

_BLOCK_SIZE = 16
_BLOCKS_PER_BATCH = 8
_HELD = 2000
_NAMES = 40
"""Engines share these names over time, as restarted containers do."""
_BATCHES_OF_AN_ENGINE = 2000


class Churn:
    """A few engines at a time publish to a bound endpoint; one that ends is followed by another."""

    def __init__(self, address: str, engines: int = 4, pause: float = 0.01) -> None:
        """`pause` is the time in seconds between two batches of an engine."""
        self._address = address
        self._engines = engines
        self._pause = pause
        self._published = 0
        self._random = random.Random(2)

    def taken(self) -> int:
        """The batches published since the last call."""
        published, self._published = self._published, 0
        return published

    async def run(self) -> None:
        with zmq.Context() as context:
            await asyncio.gather(*(self._one_after_another(context, number) for number in range(self._engines)))

    async def _one_after_another(self, context: zmq.Context[zmq.Socket[bytes]], number: int) -> None:
        while True:
            name = f"10.1.{number}.{self._random.randrange(_NAMES)}:8000"
            with context.socket(zmq.PUB) as socket:
                socket.linger = 0
                socket.connect(self._address)
                await asyncio.sleep(0.2)
                for sequence, events in enumerate(self._events(self._random.randrange(1, _BATCHES_OF_AN_ENGINE))):
                    payload = msgspec.msgpack.encode([time(), events, 0])
                    socket.send_multipart((f"kv@{name}@churned".encode(), sequence.to_bytes(8, "big"), payload))
                    self._published += 1
                    await asyncio.sleep(self._pause)

    def _events(self, batches: int) -> Iterator[list[dict[str, Any]]]:
        """Batches of one engine: chains of blocks, evicted oldest first, sometimes all cleared."""
        held: deque[int] = deque()
        parent: int | None = None
        for number in range(batches):
            hashes = [self._random.getrandbits(63) for _ in range(_BLOCKS_PER_BATCH)]
            stored: dict[str, Any] = {
                "type": "BlockStored",
                "block_hashes": hashes,
                "parent_block_hash": parent,
                "token_ids": [self._random.randrange(1 << 15) for _ in range(_BLOCKS_PER_BATCH * _BLOCK_SIZE)],
                "block_size": _BLOCK_SIZE,
            }
            events = [stored]
            held.extend(hashes)
            parent = hashes[-1] if number % 20 else None
            if len(held) > _HELD:
                events.append({"type": "BlockRemoved", "block_hashes": [held.popleft() for _ in hashes]})
            if self._random.random() < 0.001:
                events.append({"type": "AllBlocksCleared"})
                held.clear()
                parent = None
            yield events
