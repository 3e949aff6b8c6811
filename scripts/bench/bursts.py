"""A burst: many chats with one long prefix reach engines that do not hold it, with and without placements.

python -m scripts.bench.bursts
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import quantiles
from time import perf_counter
from typing import Final
from unittest.mock import patch

from aiohttp import ClientSession

from service.contract.pods import PodEntry
from service.contract.settings import Settings
from service.index.base import BlockKey, Prompt
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from service.routing.placements import Placements
from service.server import listening
from service.simulation.scheduler import Speed
from service.simulation.server import EngineOptions, EngineServer, serving

_MODEL: Final = "builtin/demo"
_PREFIX: Final = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 120
_ENGINES: Final = 8
_CHATS: Final = 50
_PREFILL_SECONDS: Final = 2.0


def _no_keys(placements: Placements, prompt: Prompt) -> Sequence[BlockKey]:
    return ()


async def burst(*, with_placements: bool) -> tuple[list[float], int, float]:
    """Sorted seconds to first token, the engines that computed the prefix, and the seconds of one prefill."""
    async with AsyncExitStack() as stack:
        models = Models(PromptOptions())
        stack.push_async_callback(models.close)
        model = await models.get(_MODEL)
        one = await stack.enter_async_context(serving(EngineOptions([_MODEL]), model))
        client = await stack.enter_async_context(ClientSession())
        async with client.post(f"{one.url}/tokenize", json={"prompt": _PREFIX}) as response:
            tokens = (await response.json())["count"]
        options = [
            EngineOptions([_MODEL], seed=number, speed=Speed(prefill_rate=tokens / _PREFILL_SECONDS))
            for number in range(_ENGINES)
        ]
        engines = [await stack.enter_async_context(serving(option, model)) for option in options]
        settings = Settings(
            model_name=_MODEL,
            zmq_endpoint=(),
            http_host="127.0.0.1",
            http_port=0,
            pods=tuple(PodEntry(engine.url, engine.pod) for engine in engines),
            health_interval=0.2,
        )
        port = await stack.enter_async_context(listening(settings))
        url = f"http://127.0.0.1:{port}"
        await _until_known(client, url, engines)
        if not with_placements:
            stack.enter_context(patch.object(Placements, "keys", _no_keys))
        seconds = await asyncio.gather(*(_first_token(client, url, number) for number in range(_CHATS)))
        computed = [sum(rank.queried_tokens - rank.hit_tokens for rank in engine.ranks) for engine in engines]
    return sorted(seconds), sum(one > tokens / 2 for one in computed), _PREFILL_SECONDS


async def _until_known(client: ClientSession, url: str, engines: Sequence[EngineServer]) -> None:
    for engine in engines:
        for rank in engine.ranks:
            await rank.publisher.subscribed()
    while True:
        async with client.get(f"{url}/pods") as response:
            if all(pod["healthy"] and pod["models"] for pod in (await response.json())["fleet"]):
                return
        await asyncio.sleep(0.05)


async def _first_token(client: ClientSession, url: str, number: int) -> float:
    body = {"messages": [{"role": "user", "content": f"{_PREFIX} {number}"}], "max_tokens": 1, "stream": True}
    started = perf_counter()
    async with client.post(f"{url}/v1/chat/completions", json=body) as response:
        await response.content.readany()
        seconds = perf_counter() - started
        await response.read()
    return seconds


def main() -> None:
    for with_placements in (True, False):
        seconds, computed, prefill = asyncio.run(burst(with_placements=with_placements))
        half = quantiles(seconds, n=2)[0]
        name = "with placements" if with_placements else "without"
        print(
            f"{name:16s} {computed} of {_ENGINES} engines compute the prefix; time to first token in prefills of "
            f"{prefill:g} s: p50 {half / prefill:.2f}, last {seconds[-1] / prefill:.2f}"
        )


if __name__ == "__main__":
    main()
