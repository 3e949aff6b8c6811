"""Part 3, events → index: the cost of storing blocks, until the index answers for the last one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from random import Random

from scripts.bench.engines import batch, chain, stored
from scripts.bench.pairs import Fed, held_by, servers
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from scripts.bench.scores_meanwhile import scores_meanwhile
from scripts.bench.servers import Server

PART = "3 events → index"
_BLOCKS = {1: 60_000, 32: 192_000, 512: 256_000}
"""Blocks per batch → blocks per round."""


async def run(plan: Plan) -> AsyncIterator[Measure]:
    """CPU and time per block for batches of 1, 32 and 512 blocks from one and four publishers; scores meanwhile."""
    random = Random(2)
    for publishers in (1, 4):
        for size, whole in _BLOCKS.items():
            # Both servers are restarted for each size.
            async with servers(publishers) as fed:
                rounds = Rounds()
                for counts in plan.turns():
                    payloads = [batch(stored(chain(random, size))) for _ in range(plan.count(whole // size))]
                    for pair in fed:
                        figures = await _round(pair, payloads, size, random)
                        if counts:
                            rounds.add(pair.server.name, figures)
            what = f"{size} a batch, {publishers} publisher{'s' * (publishers > 1)}"
            yield rounds.measure("cpu", part=PART, what=f"{what}, CPU", unit="µs/block", least_ratio=1)
            yield rounds.measure(
                "rate", part=PART, what=f"{what}, until answered", unit="blocks/s", more_is_better=True
            )
    async for measure in scores_meanwhile(PART, plan):
        yield measure


async def _round(fed: Fed[Server], payloads: Sequence[bytes], size: int, random: Random) -> dict[str, float]:
    """Distributes the batches over the engines and waits until the last one of each is answered."""
    last = chain(random, 1)
    cpu, started = fed.server.usage.cpu(), time.perf_counter()
    for number, payload in enumerate(payloads):
        fed.engines[number % len(fed.engines)].publish(payload)
    for engine in fed.engines:
        engine.publish(batch(stored(last)))
    await held_by(fed.server, last.tokens, len(fed.engines))
    taken = time.perf_counter() - started
    used = fed.server.usage.cpu() - cpu
    blocks = len(payloads) * size
    return {"cpu": used * 1e6 / blocks, "rate": blocks / taken}
