"""Part 2, ids → scores: token ids over HTTP, all of them cached on 4 of 8 pods."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from random import Random

from scripts.bench.engines import BLOCK_SIZE, batch, chain
from scripts.bench.pairs import held_by, servers
from scripts.bench.results import Measure, compared
from scripts.bench.servers import Server

_PODS, _HOLDING = 8, 4
_REQUESTS = 400


async def run(rounds: int) -> AsyncIterator[Measure]:
    """Gives CPU per request and its time over one connection, for 1,024 and 8,192 ids."""
    random = Random(1)
    async with servers(_PODS) as both:
        for count in (1024, 8192):
            prompt = chain(random, count // BLOCK_SIZE)
            for server, engines in both:
                for engine in engines[:_HOLDING]:
                    engine.publish(batch([prompt]))
                await held_by(server, prompt.tokens, _HOLDING)
                await _cost(server, prompt.tokens)
            cpu: dict[str, list[float]] = {server.name: [] for server, _ in both}
            wall: dict[str, list[float]] = {server.name: [] for server, _ in both}
            for _ in range(rounds):
                for server, _engines in both:
                    used, taken = await _cost(server, prompt.tokens)
                    cpu[server.name].append(used)
                    wall[server.name].append(taken)
            yield compared("ids → scores", f"{count} ids, CPU", "ms/request", cpu, target=1)
            yield compared("ids → scores", f"{count} ids, time", "ms/request", wall)


async def _cost(server: Server, tokens: list[int]) -> tuple[float, float]:
    """CPU and wall-clock milliseconds per request."""
    path, body = server.request(tokens)
    cpu, started = server.cpu(), time.perf_counter()
    for _ in range(_REQUESTS):
        await server.post(path, body)
    return (server.cpu() - cpu) * 1000 / _REQUESTS, (time.perf_counter() - started) * 1000 / _REQUESTS
