"""Part 2, ids → scores: token ids over HTTP, all cached on 4 of 8 pods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count, cycle
from random import Random

from scripts.bench.client import drive
from scripts.bench.engines import BLOCK_SIZE, Chain, batch, chain, stored
from scripts.bench.pairs import Fed, held_by, servers
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from scripts.bench.servers import Server

PART = "2 ids → scores"
_PODS, _HOLDING = 8, 4
_PROMPTS = 64
_SECONDS = 1.2
_MARK = 99_999
"""A placeholder id: not in any prompt, with as many digits as its replacements."""


async def run(plan: Plan) -> AsyncIterator[Measure]:
    """CPU per request, and latency over 1 and 16 connections, for 1,024 and 8,192 ids."""
    random = Random(1)
    async with servers(_PODS) as fed:
        for ids in (1024, 8192):
            prompts = [chain(random, ids // BLOCK_SIZE) for _ in range(_PROMPTS)]
            questions = {}
            for pair in fed:
                await _cache(pair, prompts)
                questions[pair.server.name] = _questions(pair.server, prompts)
            rounds = Rounds()
            for counts in plan.turns():
                for server, _ in fed:
                    figures = await _round(server, questions[server.name], plan.seconds(_SECONDS))
                    if counts:
                        rounds.add(server.name, figures)
            what = f"{ids:,} ids"
            yield rounds.measure("cpu", part=PART, what=f"{what}, CPU", unit="ms/request", least_ratio=1)
            yield rounds.measure("rate", part=PART, what=f"{what}, per core", unit="requests/s", more_is_better=True)
            for figure in ("p50", "p99"):
                for connections in (1, 16):
                    name = f"{what}, {figure}, {connections} connection{'s' * (connections > 1)}"
                    yield rounds.measure(f"{figure} {connections}", part=PART, what=name, unit="ms")


async def _cache(fed: Fed[Server], prompts: Sequence[Chain]) -> None:
    for prompt in prompts:
        for engine in fed.engines[:_HOLDING]:
            engine.publish(batch(stored(prompt)))
    for prompt in prompts:
        await held_by(fed.server, prompt.tokens, _HOLDING)
        found = await fed.server.matched(prompt.tokens)
        if found != dict.fromkeys(range(_HOLDING), len(prompt.tokens)):
            raise RuntimeError(f"{fed.server.name} found {found} of {len(prompt.tokens)} ids")


def _questions(server: Server, prompts: Sequence[Chain]) -> Iterator[bytes]:
    """Cycles through the prompts with a different id after the last block, so that no two bodies are equal."""
    parts = [server.question([*prompt.tokens, _MARK]).rpartition(b"%d" % _MARK) for prompt in prompts]
    for number, (before, _, after) in zip(count(), cycle(parts)):
        yield before + b"%d" % (10_000 + number % 50_000) + after


async def _round(server: Server, questions: Iterator[bytes], seconds: float) -> dict[str, float]:
    before = server.usage.cpu()
    alone = await drive(await server.connections(1), [questions], seconds)
    cpu = (server.usage.cpu() - before) / len(alone.latencies)
    crowd = await drive(await server.connections(16), [questions] * 16, seconds)
    return {
        "cpu": cpu * 1000,
        "rate": 1 / cpu,
        "p50 1": alone.percentile(50),
        "p99 1": alone.percentile(99),
        "p50 16": crowd.percentile(50),
        "p99 16": crowd.percentile(99),
    }
