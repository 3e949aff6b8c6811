from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientSession

from service.simulation.publisher import Publisher, batch_payload
from tests.service.prompts.conftest import hub
from tests.waiting import PATIENCE

__all__ = ["hub"]
BLOCK_SIZE = 4
CHAT = {
    "model": "builtin/demo",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is a KV-cache, and why would two engines share one?"},
    ],
}


@dataclass
class Engine:
    """Speaks for one pod, through a real socket."""

    pod: str
    client: ClientSession
    publisher: Publisher

    async def stores(self, tokens: Sequence[int], rank: int = 0, **fields: Any) -> None:
        """Announces the whole blocks of a prompt and waits until the service has heard of them."""
        blocks = len(tokens) // BLOCK_SIZE
        event = {
            "type": "BlockStored",
            "block_hashes": [hash((self.pod, rank, position, *tokens)) % 2**64 for position in range(blocks)],
            "token_ids": list(tokens[: blocks * BLOCK_SIZE]),
            "block_size": BLOCK_SIZE,
            **fields,
        }
        await self.says([event], rank)

    async def says(self, events: list[dict[str, Any]], rank: int = 0) -> None:
        """Publishes a batch and waits until it has been applied."""
        sequence = self.publisher.publish(batch_payload(events, rank))
        async with asyncio.timeout(PATIENCE):
            while True:
                pods = (await (await self.client.get("/pods")).json())["pods"]
                if (self.pod, rank, sequence) in [(pod["pod"], pod["rank"], pod["last_sequence"]) for pod in pods]:
                    return


Join: TypeAlias = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def join(folder: Path) -> AsyncIterator[Join]:
    """Lets an engine of the built-in model connect to the service."""
    async with AsyncExitStack() as stack:

        async def start(client: ClientSession, pod: str, model: str = "builtin/demo") -> Engine:
            publisher = Publisher(f"ipc://{folder}/events", None, topic=f"kv@{pod}@{model}", binds=False)
            await stack.enter_async_context(publisher)
            await publisher.subscribed()
            return Engine(pod, client, publisher)

        yield start


async def post(client: ClientSession, path: str, body: Any) -> Any:
    """The JSON answer to a request that must succeed."""
    # A file, since the client warns of large bodies in bytes.
    async with client.post(path, data=BytesIO(json.dumps(body).encode())) as answer:
        found = await answer.json()
        assert answer.status == 200, found
        return found


async def refused(client: ClientSession, path: str, body: Any) -> tuple[int, str | None, str]:
    """Status, field at fault and message of a request that must fail."""
    async with client.post(path, json=body) as answer:
        error = (await answer.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return answer.status, error["param"], error["message"]
