"""A running service as tests of restarts see it, and batches of one block."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import ClientSession

from service.contract.endpoints import Endpoint
from service.simulation.publisher import Publisher
from tests.waiting import PATIENCE

MODEL = "builtin/demo"
SIZE = 4


def tokens_of(number: int) -> list[int]:
    return [number * 10 + offset for offset in range(SIZE)]


def stored(number: int, life: int = 0) -> bytes:
    """A batch that stores one block, with a chain of its own; engines of different lives date it differently."""
    event = {"type": "BlockStored", "block_hashes": [number], "token_ids": tokens_of(number), "block_size": SIZE}
    return msgspec.msgpack.encode([time.time() + life, [event], 0])


def topic(pod: str) -> str:
    return f"kv@{pod}@{MODEL}"


def endpoint(publisher: Publisher, *, replay: bool = True) -> Endpoint:
    return Endpoint(publisher.address, replay=publisher.replay if replay else None)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until a condition holds that is asked of the service."""
    async with asyncio.timeout(PATIENCE):
        for _ in range(1_000_000):
            if await condition():
                return
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Replica:
    client: ClientSession

    @property
    def url(self) -> str:
        return str(self.client._base_url).rstrip("/")

    async def get(self, path: str) -> tuple[int, Any]:
        response = await self.client.get(path)
        return response.status, await response.json()

    async def pods(self) -> dict[str, Any]:
        _, answer = await self.get("/pods")
        return {rank["pod"]: rank for rank in answer["pods"]}

    async def holds(self, number: int) -> set[str]:
        """The pods that hold a block."""
        body = {"model": MODEL, "token_ids": tokens_of(number), "block_size": SIZE}
        answer = await (await self.client.post("/query", json=body)).json()
        return set(answer["scores"])

    async def becomes(self, pod: str, **expected: Any) -> dict[str, Any]:
        """Waits until the first rank of a pod is as `GET /pods` is expected to show it."""
        shown: dict[str, Any] = {}
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    shown = (await self.pods()).get(pod, {})
                    if all(shown.get(name) == value for name, value in expected.items()):
                        return shown
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{pod} is {shown}") from None

    async def ready(self) -> None:
        """Waits until `GET /ready` says so."""
        await eventually(self._is_ready)

    async def _is_ready(self) -> bool:
        return (await self.get("/ready"))[0] == 200

    async def metrics(self) -> str:
        return await (await self.client.get("/metrics")).text()
