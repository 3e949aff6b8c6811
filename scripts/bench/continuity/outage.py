"""The Valkey of two replicas is killed, comes back without its memory, and is failed over to another one."""

from __future__ import annotations

import asyncio
from itertools import cycle

from scripts.bench.continuity.fleet import engines
from scripts.bench.continuity.outcome import Outcome
from scripts.bench.continuity.plan import Plan
from scripts.bench.continuity.requests import Requests, requesting
from scripts.bench.continuity.services import Replica, replicas, until
from scripts.bench.continuity.valkey import Valkey, watched

_SLOWER_MS = 25.0
_RENEWED_MS = 3000
"""A replica's key lasts four seconds."""


async def outage(name: str, plan: Plan) -> Outcome:
    outcome = Outcome(name)
    async with engines(plan) as fleet, watched() as store, replicas() as made:
        own = [made.make(PODS=fleet.urls, SHARED_STATE=store.url, STATE_DIR="") for _ in range(2)]
        for one in own:
            one.start()
        for one in own:
            await one.ready()
            await one.forwards_to(len(fleet.pods))
            await one.knows_replicas(2)
        await fleet.fill(plan.blocks, plan.conversation)
        for one in own:
            await one.holds(fleet.blocks)
        ports = cycle([one.port for one in own])
        requests = Requests(fleet, lambda: next(ports), plan.rate)
        async with requesting(requests):
            outcome.phases.append(requests.begin("before"))
            await asyncio.sleep(max(plan.seconds, plan.outage / 2))
            outcome.phases.append(requests.begin("killed"))
            store.primary.kill()
            outcome.facts["said to be down after"] = f"{await _all(own, 'down since'):.2f} s"
            await asyncio.sleep(plan.outage)
            outcome.phases.append(requests.begin("back"))
            await store.primary.start()
            outcome.facts["up again after"] = f"{await _all(own, 'up'):.2f} s"
            await asyncio.gather(*(one.knows_replicas(2) for one in own))
            await asyncio.sleep(plan.seconds)
            outcome.phases.append(requests.begin("failed over"))
            await store.fail_over()
            seconds = await until(lambda: _follow(store.other), "the replicas do not follow")
            outcome.facts["both write to the new primary after"] = f"{seconds:.2f} s"
            await asyncio.sleep(plan.seconds)
        outcome.facts["pods called down"] = str(sum(one.pods_down() for one in own))
    before, *others = outcome.phases
    slowest = max(phase.milliseconds(100) for phase in others) - before.milliseconds(100)
    outcome.facts["blocks"] = f"{fleet.blocks:,}"
    outcome.facts["problems"] = "; ".join(requests.problems[:3]) or "none"
    outcome.none_failed()
    outcome.aim("none slower than 25 ms more than before", slowest <= _SLOWER_MS, f"{slowest:+.0f} ms")
    outcome.steady_hit_rate()
    outcome.no_over_claims()
    return outcome


async def _all(own: list[Replica], state: str) -> float:
    """Seconds until each replica says so of the shared state."""

    async def say() -> bool:
        answers = [await one.get("/ready") for one in own]
        return all(answer["shared_state"].startswith(state) for _, answer in answers)

    return await until(say, f"the shared state is not {state}")


async def _follow(primary: Valkey) -> bool:
    """Whether two replicas have renewed their keys there within a second."""
    prefix = "{kvcache}:1:"
    names = [name.decode() for name in await primary.ask("SMEMBERS", f"{prefix}names")]
    left = [await primary.ask("PTTL", prefix + name) for name in names if name.startswith("replicas:")]
    return sum(bool(milliseconds > _RENEWED_MS) for milliseconds in left) == 2
