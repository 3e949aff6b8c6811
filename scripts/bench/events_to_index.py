"""Part 3, events → index: what it costs to take in blocks, until the index answers for the last of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from random import Random

from scripts.bench.engines import Engine, batch, chain
from scripts.bench.pairs import held_by, servers
from scripts.bench.results import Measure, compared
from scripts.bench.servers import Server

_BLOCKS = {1: 8_000, 32: 64_000, 512: 128_000}
"""How many blocks a round has, by how many are in a batch."""


async def run(rounds: int) -> AsyncIterator[Measure]:
    """Gives CPU and wall-clock microseconds per block, for batches of 1, 32 and 512 blocks, one and four publishers."""
    random = Random(2)
    for publishers in (1, 4):
        async with servers(publishers) as both:
            for size, blocks in _BLOCKS.items():
                cpu: dict[str, list[float]] = {server.name: [] for server, _ in both}
                wall: dict[str, list[float]] = {server.name: [] for server, _ in both}
                for warm in (False, *[True] * rounds):
                    payloads = [batch([chain(random, size)]) for _ in range(blocks // size)]
                    for server, engines in both:
                        used, taken = await _cost(server, engines, payloads, random)
                        if warm:
                            cpu[server.name].append(used * 1e6 / blocks)
                            wall[server.name].append(taken * 1e6 / blocks)
                what = f"{size} a batch, {publishers} publisher{'s' * (publishers > 1)}"
                yield compared("events → index", f"{what}, CPU", "µs/block", cpu, target=1)
                yield compared("events → index", f"{what}, time", "µs/block", wall)


async def _cost(
    server: Server, engines: Sequence[Engine], payloads: Sequence[bytes], random: Random
) -> tuple[float, float]:
    """CPU and wall-clock seconds from the first batch to the answer for the last one of every publisher."""
    last = chain(random, 1)
    cpu, started = server.cpu(), time.perf_counter()
    for number, payload in enumerate(payloads):
        engines[number % len(engines)].publish(payload)
    for engine in engines:
        engine.publish(batch([last]))
    await held_by(server, last.tokens, len(engines))
    return server.cpu() - cpu, time.perf_counter() - started
