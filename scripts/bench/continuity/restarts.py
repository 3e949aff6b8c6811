"""A replica is killed and starts again; meanwhile engines may restart too."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import monotonic

from scripts.bench.continuity.fleet import Fleet, engines
from scripts.bench.continuity.outcome import Outcome
from scripts.bench.continuity.plan import Plan
from scripts.bench.continuity.queries import querying
from scripts.bench.continuity.services import Replica, replicas
from scripts.bench.continuity.valkey import valkey


async def restart(
    name: str, plan: Plan, *, replay: bool = True, engines_restart: bool = False, shared: bool = False
) -> Outcome:
    """Kills a replica and starts it again. `shared`: its only memory is a store, to which another replica writes."""
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(engines(plan))
        made = await stack.enter_async_context(replicas())
        settings = {"ZMQ_ENDPOINT": fleet.endpoints(replay=replay), "SNAPSHOT_INTERVAL": f"{plan.interval}s"}
        if shared:
            store = await stack.enter_async_context(valkey())
            settings |= {"SHARED_STATE": store.url, "BOOTSTRAP_FROM": "shared", "STATE_DIR": ""}
        others = [made.make(**settings)] if shared else []
        replica = made.make(**settings)
        for one in (*others, replica):
            one.start()
            await one.ready()
        await fleet.fill(plan.blocks, plan.conversation)
        for one in (*others, replica):
            await one.holds(fleet.blocks)
        outcome = await _measure(Outcome(name), fleet, replica, plan, engines_restart=engines_restart)
    _judge(outcome, replay=replay, engines_restart=engines_restart)
    return outcome


async def _measure(outcome: Outcome, fleet: Fleet, replica: Replica, plan: Plan, *, engines_restart: bool) -> Outcome:
    async with querying(fleet, replica) as queries:
        outcome.phases.append(queries.begin("before"))
        await asyncio.sleep(max(plan.seconds, 2 * plan.interval))
        outcome.phases.append(queries.begin("until ready"))
        replica.kill()
        for pod in fleet.pods[::2] if engines_restart else ():
            pod.restart()
        await asyncio.sleep(plan.down)
        replica.start()
        listens = await replica.listens()
        ready = listens + await replica.ready()
        outcome.phases.append(queries.begin("after ready"))
        began = monotonic()
        exact: float | None = None
        while monotonic() - began < plan.seconds:
            if exact is None and len(await replica.exact()) == len(fleet.pods):
                exact = monotonic() - began
            await asyncio.sleep(0.02)
    outcome.facts |= {
        "blocks": f"{fleet.blocks:,}",
        "listens after": f"{listens:.2f} s",
        "ready after": f"{ready:.2f} s",
        "exact after ready": "never" if exact is None else f"{exact:.2f} s",
    }
    return outcome


def _judge(outcome: Outcome, *, replay: bool, engines_restart: bool) -> None:
    after = outcome.phases[-1]
    if replay:
        outcome.aim("no blind decision after ready", after.blind == 0, f"{after.blind} of {after.decisions}")
        exact = outcome.facts["exact after ready"]
        is_soon = exact != "never" and float(exact.split()[0]) <= 2.0
        outcome.aim("exact within 2 s of ready", is_soon, exact)
    else:
        is_rare = after.blind <= 0.01 * after.decisions
        outcome.aim("at most 1 % blind after ready", is_rare, f"{after.blind} of {after.decisions}")
    if engines_restart:
        found = sum(phase.too_much for phase in outcome.phases)
        outcome.aim("no old block is ever scored", found == 0, found)
    outcome.no_over_claims()
