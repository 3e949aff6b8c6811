"""Turns that ask a replica for every pod's prefix match, and take each one's truth from its engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic

import aiohttp

from scripts.bench.continuity.fleet import Fleet
from scripts.bench.continuity.outcome import Phase
from scripts.bench.continuity.services import Replica

_ON_THE_WAY_SECONDS = 0.25
"""The events of a turn that is not older may still be on their way: that nothing is known of it is not blind."""


class Queries:
    """One turn after the other; each goes to the pod with the longest match, or to any if the replica is silent."""

    def __init__(self, fleet: Fleet, replica: Replica) -> None:
        self.phase = Phase("")
        self._fleet = fleet
        self._replica = replica
        self._served: dict[int, float] = {}
        """When each conversation had its last turn, by its id."""

    def begin(self, title: str) -> Phase:
        self.phase = Phase(title)
        return self.phase

    async def run(self) -> None:
        while True:
            await self._turn()
            await asyncio.sleep(0)

    async def _turn(self) -> None:
        fleet, phase = self._fleet, self.phase
        prompt = fleet.turn()
        is_known = monotonic() - self._served.get(id(prompt), 0.0) > _ON_THE_WAY_SECONDS
        truth = {pod.name: pod.cache.cached_tokens(prompt) for pod in fleet.pods}
        chosen = fleet.random.choice(fleet.pods)
        try:
            held = await self._replica.held(prompt)
        except (aiohttp.ClientError, OSError):
            phase.failed += 1
            await asyncio.sleep(0.01)
        else:
            phase.decisions += 1
            phase.blind += not held and any(truth.values()) and is_known
            if held:
                best = max(held, key=lambda name: held[name])
                chosen = next(pod for pod in fleet.pods if pod.name == best)
            if too_much := [name for name, tokens in held.items() if tokens > truth.get(name, 0)]:
                phase.too_much += 1
                with suppress(aiohttp.ClientError, OSError):
                    phase.over_claims += len(set(too_much) & await self._replica.exact())
        phase.reused_tokens += chosen.serve(prompt)
        self._served[id(prompt)] = monotonic()
        phase.prompt_tokens += len(prompt)


@asynccontextmanager
async def querying(fleet: Fleet, replica: Replica) -> AsyncIterator[Queries]:
    """Turns go on until the context ends."""
    queries = Queries(fleet, replica)
    running = asyncio.create_task(queries.run())
    try:
        yield queries
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
