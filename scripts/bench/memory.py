"""Part 4, memory: process memory per held block, also after many evictions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from random import Random

from scripts.bench.engines import BLOCK_SIZE, Chain, batch, chain, hashes, removed, stored, tokens
from scripts.bench.pairs import Fed, held_by, servers
from scripts.bench.plan import Plan
from scripts.bench.results import Measure, Rounds
from scripts.bench.servers import Server

PART = "4 memory"
_PODS = 8
_CHAIN = 32
_SIZES = (1_000_000, 5_000_000)
_CHAINS_A_SLICE = 400
_TURNOVERS = 3
"""Number of times that all blocks are replaced. Memory grows with the first replacement, and must not grow later."""
_MOST_ROUNDS = 1
"""Rounds hardly differ, and five million blocks take long."""


async def run(plan: Plan) -> AsyncIterator[Measure]:
    """Bytes per held block at one and five million blocks, and after one and several replacements of all of them.

    A block counts once per pod that holds it. Half of each pod's chains are held by all pods.
    """
    rounds = Rounds()
    sizes = [plan.count(size) for size in _SIZES]
    for number in range(min(plan.rounds, _MOST_ROUNDS)):
        async with servers(_PODS) as fed:
            for name, figures in (await _round(fed, sizes, Random(f"round {number}"))).items():
                rounds.add(name, figures)
    for size in sizes:
        what = f"{size:,} blocks on {_PODS} pods"
        yield rounds.measure(f"{size}", part=PART, what=what, unit="bytes/block", least_ratio=0.5)
    once = rounds.measure("once", part=PART, what=f"{what}, all replaced once", unit="bytes/block", least_ratio=0.5)
    often = f"{what}, all replaced {_TURNOVERS} times"
    later = rounds.measure("later", part=PART, what=often, unit="bytes/block", least_ratio=0.5)
    yield once
    yield later
    yield Measure(
        part=PART,
        what=f"{often} against once",
        unit="bytes/block",
        ours=later.ours,
        peer="once",
        theirs=once.ours,
        least_ratio=0.95,
    )
    yield rounds.measure("all", part=PART, what=f"{what}, whole process", unit="MB")


async def _round(fed: Sequence[Fed[Server]], sizes: Sequence[int], random: Random) -> dict[str, dict[str, float]]:
    pods = Pods(fed, random)
    figures: dict[str, dict[str, float]] = {server.name: {} for server, _ in fed}
    empty = {server.name: server.usage.memory() for server, _ in fed}

    def weigh(figure: str) -> None:
        for server, _ in fed:
            used = server.usage.memory()
            figures[server.name][figure] = (used - empty[server.name]) / pods.blocks
            figures[server.name]["all"] = used / 1e6

    for size in sizes:
        await pods.fill(size)
        weigh(f"{size}")
    await pods.replace()
    weigh("once")
    for _ in range(_TURNOVERS - 1):
        await pods.replace()
    weigh("later")
    return figures


class Pods:
    """Eight pods that publish the same to each server. Once full, they evict the oldest chain for each new one."""

    def __init__(self, fed: Sequence[Fed[Server]], random: Random) -> None:
        self._fed = fed
        self._random = random
        self._first = 0
        self._last = 0

    @property
    def blocks(self) -> int:
        return (self._last - self._first) * _CHAIN * _PODS

    async def fill(self, blocks: int) -> None:
        """Adds chains until `blocks` blocks are held."""
        wanted = blocks // _PODS // _CHAIN
        while self._last - self._first < wanted:
            await self._add(min(_CHAINS_A_SLICE, wanted - self._last + self._first), drop=False)

    async def replace(self) -> None:
        left = self._last - self._first
        while left:
            count = min(_CHAINS_A_SLICE, left)
            await self._add(count, drop=True)
            left -= count

    async def _add(self, count: int, *, drop: bool) -> None:
        """Adds chains to each pod and waits until the servers have applied them: queued messages take memory too."""
        for _ in range(count):
            shared = tokens(self._seeded(self._last), _CHAIN * BLOCK_SIZE) if self._last % 2 else None
            for pod in range(_PODS):
                own = self._seeded(self._last, pod)
                added = stored(Chain(hashes(own, _CHAIN), shared or tokens(own, _CHAIN * BLOCK_SIZE)))
                gone = [removed(hashes(self._seeded(self._first, pod), _CHAIN))] if drop else []
                self._publish(pod, batch(*gone, added))
            self._last += 1
            self._first += drop
        mark = chain(self._random, 1)
        for pod in range(_PODS):
            self._publish(pod, batch(stored(mark)))
        for server, _ in self._fed:
            await held_by(server, mark.tokens, _PODS)
        for pod in range(_PODS):
            self._publish(pod, batch(removed(mark.hashes)))

    def _publish(self, pod: int, payload: bytes) -> None:
        for _, engines in self._fed:
            engines[pod].publish(payload)

    @staticmethod
    def _seeded(number: int, pod: int = _PODS) -> Random:
        """The random generator of one pod's chain, or of a chain that all pods share."""
        return Random(number * (_PODS + 1) + pod)
