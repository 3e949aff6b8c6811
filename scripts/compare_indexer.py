"""Asks our indexer endpoints and Dynamo's standalone indexer the same questions about the same events.

  python -m venv VENV && VENV/bin/pip install ai-dynamo-runtime
  python -m scripts.compare_indexer VENV/bin/python

Prints each difference in `scores` or `instances`, which sets exit code 1.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aiohttp import ClientError, ClientSession

from service.contract.endpoints import Endpoint
from service.contract.settings import Settings
from service.server import listening
from service.simulation.publisher import Publisher, batch_payload

_MODEL: Final = "builtin/demo"
_BLOCK: Final = 16
_TOKENS: Final = list(range(100, 100 + 8 * _BLOCK))
_SECONDS: Final = 30.0


def stored(blocks: int, first: int = 1000, **fields: Any) -> dict[str, Any]:
    """An event that stores the first blocks of the prompt."""
    return {
        "type": "BlockStored",
        "block_hashes": list(range(first, first + blocks)),
        "parent_block_hash": None,
        "token_ids": _TOKENS[: blocks * _BLOCK],
        "block_size": _BLOCK,
        "medium": "GPU",
        **fields,
    }


QUESTIONS: Final[Sequence[Mapping[str, Any]]] = (
    {},
    {"token_ids": _TOKENS[:50]},
    {"token_ids": [9] * 64},
    {"token_ids": _TOKENS[:5]},
    {"token_ids": []},
    {"lora_name": "sql"},
    {"cache_salt": "salt"},
)


async def answers(client: ClientSession, url: str) -> list[Any]:
    """The comparable part of each answer."""
    found = []
    for question in QUESTIONS:
        body = {"model_name": _MODEL, "token_ids": _TOKENS, **question}
        async with client.post(f"{url}/query", json=body) as response:
            answer = await response.json()
            found.append({name: answer.get(name) for name in ("scores", "instances")})
    return found


async def compared(client: ClientSession, urls: Mapping[str, str]) -> bool:
    """Asks both until they agree, since events take a moment; prints what still differs after a while."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _SECONDS
    while True:
        ours, theirs = [await answers(client, url) for url in urls.values()]
        if ours == theirs or loop.time() > end:
            break
        await asyncio.sleep(0.1)
    for question, one, other in zip(QUESTIONS, ours, theirs, strict=True):
        if one != other:
            print(f"{dict(question)}\n  kvcache {one}\n  dynamo  {other}")
    return ours == theirs


async def main(python: str) -> int:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        dynamo = await asyncio.create_subprocess_exec(python, "-m", "dynamo.indexer", "--port", str(port))
        stack.callback(dynamo.terminate)
        settings = Settings(
            container_env=True,
            model_name=_MODEL,
            zmq_endpoint=(Endpoint(f"ipc://{folder}/events"),),
            http_host="127.0.0.1",
            http_port=0,
        )
        own = await stack.enter_async_context(listening(settings))
        client = await stack.enter_async_context(ClientSession())
        publishers = [await stack.enter_async_context(Publisher()) for _ in range(3)]
        urls = {"kvcache": f"http://127.0.0.1:{own}", "dynamo": f"http://127.0.0.1:{port}"}
        async with asyncio.timeout(_SECONDS):
            while True:
                try:
                    async with client.get(f"{urls['dynamo']}/health"):
                        break
                except ClientError:
                    await asyncio.sleep(0.1)
        for publisher, (instance, rank) in zip(publishers, ((1, 0), (1, 1), (2, 0)), strict=True):
            body = {
                "instance_id": instance,
                "endpoint": publisher.address,
                "replay_endpoint": publisher.replay,
                "model_name": _MODEL,
                "block_size": _BLOCK,
                "dp_rank": rank,
            }
            for url in urls.values():
                async with client.post(f"{url}/register", json=body) as response:
                    response.raise_for_status()
        whole, other_rank, tiers = publishers
        whole.publish(batch_payload([stored(8)]))
        other_rank.publish(batch_payload([stored(4)], 1))
        tiers.publish(batch_payload([stored(2), stored(6, medium="CPU"), stored(3, 50, lora_name="sql", lora_id=1)]))
        equal = await compared(client, urls)
        whole.publish(batch_payload([{"type": "BlockRemoved", "block_hashes": [1006, 1007], "medium": "GPU"}]))
        equal = await compared(client, urls) and equal
        print("equal" if equal else "different")
        return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
