"""Part 3, events → index: the cost of storing blocks, until the index answers for the last one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from random import Random

from scripts.bench.engines import batch, chain, removed, stored
from scripts.bench.pairs import Fed, held_by, servers
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from scripts.bench.scores_meanwhile import scores_meanwhile
from scripts.bench.servers import Server

PART = "3 events → index"
_BLOCKS = {1: 60_000, 32: 192_000, 512: 256_000}
"""Blocks per batch → blocks per round."""
_STEP = (4, 8)
"""Requests of an engine's step, and the blocks that it stores for each."""
_STEPS = 4_000


async def run(plan: Plan) -> AsyncIterator[Measure]:
    """CPU and time per block for batches of 1, 32 and 512 blocks from one and four publishers, and for the steps of
    engines whose caches are full; scores meanwhile.
    """
    random = Random(2)
    cases = [(f"{size} a batch", size, whole // size) for size, whole in _BLOCKS.items()]
    step = _STEP[0] * _STEP[1]
    cases.append((f"{step} a step that evicts as many", step, _STEPS))
    for publishers in (1, 4):
        for name, size, batches in cases:
            # Both servers are restarted for each case.
            async with servers(publishers) as fed:
                rounds = Rounds()
                for counts in plan.turns():
                    count = plan.count(batches)
                    if batches == _STEPS:
                        payloads = _steps(random, count, publishers)
                    else:
                        payloads = [batch(stored(chain(random, size))) for _ in range(count)]
                    for pair in fed:
                        figures = await _round(pair, payloads, size, random)
                        if counts:
                            rounds.add(pair.server.name, figures)
            what = f"{name}, {publishers} publisher{'s' * (publishers > 1)}"
            yield rounds.measure("cpu", part=PART, what=f"{what}, CPU", unit="µs/block", least_ratio=1)
            yield rounds.measure(
                "rate", part=PART, what=f"{what}, until answered", unit="blocks/s", more_is_better=True
            )
    async for measure in scores_meanwhile(PART, plan):
        yield measure


def _steps(random: Random, count: int, publishers: int) -> list[bytes]:
    """Steps of engines in turn: each stores new blocks and, once its cache is full, evicts the oldest, one an event."""
    payloads: list[bytes] = []
    held: deque[Sequence[int]] = deque()
    full = max(count // 8, 1) * publishers
    for _ in range(count):
        chains = [chain(random, _STEP[1]) for _ in range(_STEP[0])]
        evicted = held.popleft() if len(held) == full else ()
        payloads.append(batch(*(removed([name]) for name in evicted), *map(stored, chains)))
        held.append([name for each in chains for name in each.hashes])
    return payloads


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
