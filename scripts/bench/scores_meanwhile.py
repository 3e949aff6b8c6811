"""Latency of scores while events arrive at a constant rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import cycle
from random import Random

from scripts.bench.client import drive
from scripts.bench.engines import Chain, Engine, batch, chain, stored
from scripts.bench.pairs import Fed, held_by, servers
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from scripts.bench.servers import Server

_PUBLISHERS = 4
_BLOCKS_A_SECOND = 100_000
_BLOCKS_A_BATCH = 32
_PROMPTS, _PROMPT_BLOCKS = 64, 64
_SECONDS = 2.5
_PAUSE = 0.001


async def scores_meanwhile(part: str, plan: Plan) -> AsyncIterator[Measure]:
    """Latency of requests with 1,024 ids over one connection, and the lag of the index when the events end."""
    random = Random(3)
    batches = int(plan.seconds(_SECONDS) * _BLOCKS_A_SECOND / _BLOCKS_A_BATCH)
    prompts = [chain(random, _PROMPT_BLOCKS) for _ in range(_PROMPTS)]
    rounds = Rounds()
    async with servers(_PUBLISHERS) as fed:
        for pair in fed:
            for prompt in prompts:
                pair.engines[0].publish(batch(stored(prompt)))
            await held_by(pair.server, prompts[-1].tokens, 1)
        for counts in plan.turns():
            payloads = [batch(stored(chain(random, _BLOCKS_A_BATCH))) for _ in range(batches)]
            for pair in fed:
                figures = await _round(pair, payloads, prompts, random)
                if counts:
                    rounds.add(pair.server.name, figures)
    what = f"{_BLOCKS_A_SECOND:,} blocks/s come in"
    yield rounds.measure("p50", part=part, what=f"{what}, a score, p50", unit="ms")
    yield rounds.measure("p99", part=part, what=f"{what}, a score, p99", unit="ms")
    yield rounds.measure("late", part=part, what=f"{what}, until the last is found", unit="ms")


async def _round(
    fed: Fed[Server], payloads: Sequence[bytes], prompts: Sequence[Chain], random: Random
) -> dict[str, float]:
    last = chain(random, 1)
    requests = cycle([fed.server.question(prompt.tokens) for prompt in prompts])
    pace = asyncio.create_task(_publish(fed.engines, payloads))

    def meanwhile() -> Iterator[bytes]:
        while not pace.done():
            yield next(requests)

    try:
        load = await drive(await fed.server.connections(1), [meanwhile()], seconds=float("inf"))
    finally:
        pace.cancel()
    fed.engines[0].publish(batch(stored(last)))
    ended = time.perf_counter()
    await held_by(fed.server, last.tokens, 1, _PAUSE)
    return {
        "p50": load.percentile(50),
        "p99": load.percentile(99),
        "late": (time.perf_counter() - ended) * 1000,
    }


async def _publish(engines: Sequence[Engine], payloads: Sequence[bytes]) -> None:
    """Publishes at the rate, a few batches at a time so that requests are not delayed."""
    batches_a_second = _BLOCKS_A_SECOND / _BLOCKS_A_BATCH
    started = time.perf_counter()
    sent = 0
    while sent < len(payloads):
        due = min(len(payloads), int((time.perf_counter() - started) * batches_a_second))
        for number in range(sent, due):
            engines[number % len(engines)].publish(payloads[number])
        sent = due
        await asyncio.sleep(_PAUSE)
