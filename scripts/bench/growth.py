"""Part 5, growth: the cost of the index with many pods and blocks, within this process."""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import cycle
from random import Random
from typing import NamedTuple

from scripts.bench.engines import BLOCK_SIZE, MODEL, hashes, tokens
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from service.contract.tier_weights import TierWeights
from service.events.pool import SWEEP_BLOCKS
from service.index.base import Prompt, Rank, Stored, TokenIds
from service.index.memory import MemoryIndex
from service.index.scoring import Scorer

PART = "5 growth"
_PODS = (10, 100, 1_000, 10_000)
_PROMPTS, _PROMPT_BLOCKS, _HOLDING = 32, 512, 4
_SYSTEM_BLOCKS = 32
_LOOKUP_SECONDS = 0.3
"""CPU seconds of lookups per round."""
_MOST_WIDE = {"1,000 pods": 0.3, "10,000 pods": 3.0}
"""Milliseconds of a lookup whose start all pods hold."""
_CLEARED = 1_000_000
_BOUND = 256_000
_EVENT_BLOCKS = 32
_MOST_ROUNDS = 3
"""For clears and evictions, which need a new index each time."""


async def run(plan: Plan) -> AsyncIterator[Measure]:
    """CPU of a lookup by number of pods, of clearing a rank, and of storing at the limit and below it."""
    for measure in [*await _lookups(plan), *await _clears(plan), *await _evictions(plan)]:
        yield measure


class Held(NamedTuple):
    """An index with prompts that four pods hold entirely; all pods hold the start of some prompts."""

    by: MemoryIndex
    few: Sequence[Prompt]
    all: Sequence[Prompt]


async def _lookups(plan: Plan) -> list[Measure]:
    indexes = {pods: _held(pods, Random(5)) for pods in _PODS if pods <= max(1_000, plan.count(max(_PODS)))}
    rounds = {"few": Rounds(), "all": Rounds()}
    for counts in plan.turns():
        for pods, held in indexes.items():
            for which, prompts in (("few", held.few), ("all", held.all)):
                used = _looked_up(held.by, prompts, plan.seconds(_LOOKUP_SECONDS))
                if counts:
                    rounds[which].add(f"{pods:,} pods", {"cpu": used})
            await asyncio.sleep(0)  # lets Ctrl+C through
    first, *others = (f"{pods:,} pods" for pods in indexes)
    count = _PROMPT_BLOCKS * BLOCK_SIZE
    wholly = f"a lookup of {count:,} ids, {_HOLDING} pods hold them"
    partly = f"a lookup of {count:,} ids, all pods hold {_SYSTEM_BLOCKS * BLOCK_SIZE:,}"
    return [
        rounds[which].measure(
            "cpu",
            part=PART,
            what=f"{what}, {pods}",
            unit="ms",
            servers=(pods, first),
            least_ratio=0.5 if which == "few" and pods == "1,000 pods" else None,
            most=_MOST_WIDE.get(pods) if which == "all" else None,
        )
        for which, what in (("few", wholly), ("all", partly))
        for pods in others
    ]


def _held(pods: int, random: Random) -> Held:
    """Every pod holds the system prompt and a few blocks of its own; four pods hold each prompt."""
    index = MemoryIndex(max_blocks=sys.maxsize)
    ranks = [Rank(f"10.0.{number // 250}.{number % 250}:8000", MODEL) for number in range(pods)]
    system = _ids(random, _SYSTEM_BLOCKS)
    for rank in ranks:
        index.store(rank, _stored(random, system))
        index.store(rank, _stored(random, _ids(random, 2)))
    few = [_ids(random, _PROMPT_BLOCKS) for _ in range(_PROMPTS)]
    every = [system + _ids(random, _PROMPT_BLOCKS - _SYSTEM_BLOCKS) for _ in range(_PROMPTS)]
    for ids in (*few, *every):
        for rank in random.sample(ranks, _HOLDING):
            index.store(rank, _stored(random, ids))
    return Held(index, [Prompt(MODEL, ids) for ids in few], [Prompt(MODEL, ids) for ids in every])


def _looked_up(index: MemoryIndex, prompts: Sequence[Prompt], seconds: float) -> float:
    """CPU milliseconds of a lookup with its scores."""
    scorer = Scorer(index, TierWeights(), BLOCK_SIZE)
    started = time.process_time()
    for count, prompt in enumerate(cycle(prompts), 1):
        scorer.scores(prompt)
        used = time.process_time() - started
        if used >= seconds:
            return used * 1000 / count
    raise AssertionError("cycle never ends")


async def _clears(plan: Plan) -> list[Measure]:
    """A cleared rank leaves lookups immediately; its memory is freed in slices."""
    blocks = plan.count(_CLEARED)
    rounds = Rounds()
    for number in range(min(plan.rounds, _MOST_ROUNDS)):
        index, rank = MemoryIndex(max_blocks=sys.maxsize), Rank("10.0.0.1:8000", MODEL)
        for stored in _events(Random(number), blocks):
            index.store(rank, stored)
        cpu = time.process_time()
        index.clear(rank)
        slices, more = [time.process_time() - cpu], True
        while more:
            started = time.process_time()
            more = index.sweep(SWEEP_BLOCKS)
            slices.append(time.process_time() - started)
        rounds.add("kvcache", {"cpu": (time.process_time() - cpu) * 1000, "slice": max(slices) * 1000})
        await asyncio.sleep(0)
    what = f"clearing {blocks:,} blocks"
    return [
        rounds.measure("cpu", part=PART, what=f"{what}, CPU", unit="ms"),
        rounds.measure("slice", part=PART, what=f"{what}, longest slice, CPU", unit="ms"),
    ]


async def _evictions(plan: Plan) -> list[Measure]:
    """Stores blocks into an index that is half full, then as many again at the limit."""
    bound = plan.count(_BOUND)
    rounds = Rounds()
    for number in range(1 + min(plan.rounds, _MOST_ROUNDS)):
        index, rank = MemoryIndex(max_blocks=bound), Rank("10.0.0.1:8000", MODEL)
        random = Random(number)
        for name in ("to half of it", "below the bound", "at the bound"):
            events = list(_events(random, bound // 2))
            started = time.process_time()
            for stored in events:
                index.store(rank, stored)
            if number:
                rounds.add(name, {"cpu": (time.process_time() - started) * 1e6 / (len(events) * _EVENT_BLOCKS)})
            await asyncio.sleep(0)
    what = f"storing a block with room for {bound:,}, at the bound"
    return [rounds.measure("cpu", part=PART, what=what, unit="µs", servers=("at the bound", "below the bound"))]


def _events(random: Random, blocks: int) -> Iterator[Stored]:
    for _ in range(blocks // _EVENT_BLOCKS):
        yield _stored(random, _ids(random, _EVENT_BLOCKS))


def _stored(random: Random, ids: TokenIds) -> Stored:
    signed = [name - (1 << 63) for name in hashes(random, len(ids) // BLOCK_SIZE)]
    return Stored(signed, None, ids, BLOCK_SIZE)


def _ids(random: Random, blocks: int) -> TokenIds:
    return array("I", tokens(random, blocks * BLOCK_SIZE))
