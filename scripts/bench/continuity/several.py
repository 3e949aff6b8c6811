"""Several replicas behind a balancer: each is restarted in turn, or one is killed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from scripts.bench.continuity.balancer import Balancer, balancing
from scripts.bench.continuity.fleet import Fleet, engines
from scripts.bench.continuity.outcome import Outcome
from scripts.bench.continuity.plan import Plan
from scripts.bench.continuity.requests import Requests, requesting
from scripts.bench.continuity.services import Replica, replicas, until
from scripts.bench.continuity.valkey import valkey
from service.simulation.scheduler import Speed

_LONG, _DECODE_SECONDS = 40, 0.05
"""Each tenth answer takes two seconds, so that some are in flight at any moment."""
_RESERVATIONS = 60


async def _started(stack: AsyncExitStack, plan: Plan, count: int) -> tuple[Fleet, list[Replica], Balancer]:
    fleet = await stack.enter_async_context(engines(plan, speed=Speed(decode_seconds=_DECODE_SECONDS)))
    store = await stack.enter_async_context(valkey())
    made = await stack.enter_async_context(replicas())
    settings = {"PODS": fleet.urls, "SHARED_STATE": store.url, "DRAIN_TIMEOUT": "30s"}
    own = [made.make(**settings, SNAPSHOT_INTERVAL=f"{plan.interval}s") for _ in range(count)]
    for one in own:
        one.start()
    for one in own:
        await one.ready()
        await one.forwards_to(len(fleet.pods))
        await one.knows_replicas(count)
    await fleet.fill(plan.blocks, plan.conversation)
    for one in own:
        await one.holds(fleet.blocks)
    return fleet, own, await stack.enter_async_context(balancing(own))


async def rolling(name: str, plan: Plan) -> Outcome:
    """Restarts two replicas, one after the other."""
    outcome = Outcome(name)
    async with AsyncExitStack() as stack:
        fleet, own, balancer = await _started(stack, plan, 2)
        requests = Requests(fleet, lambda: balancer.port, plan.rate, led_to=balancer.led_to, long=_LONG)
        async with requesting(requests):
            outcome.phases.append(requests.begin("before"))
            await asyncio.sleep(plan.seconds)
            for number, one in enumerate(own):
                outcome.phases.append(requests.begin(f"restart of {number + 1}"))
                await one.stop()
                await asyncio.sleep(plan.down)
                one.start()
                outcome.facts[f"replica {number + 1} is ready after"] = f"{await one.ready():.2f} s"
                exact = await until(lambda one=one: _all_exact(one, fleet), "not all are exact")  # type: ignore[misc]
                outcome.facts[f"replica {number + 1} is exact after ready"] = f"{exact:.2f} s"
                await asyncio.sleep(1.0)
            outcome.phases.append(requests.begin("after"))
            await asyncio.sleep(plan.seconds)
        outcome.facts["pods called down"] = str(sum(one.pods_down() for one in own))
    outcome.facts |= {"blocks": f"{fleet.blocks:,}", "problems": "; ".join(requests.problems[:3]) or "none"}
    outcome.none_failed()
    outcome.steady_hit_rate()
    outcome.no_over_claims()
    return outcome


async def _all_exact(replica: Replica, fleet: Fleet) -> bool:
    return len(await replica.exact()) == len(fleet.pods)


async def killed(name: str, plan: Plan) -> Outcome:
    """Kills one of three replicas that holds reservations."""
    outcome = Outcome(name)
    async with AsyncExitStack() as stack:
        fleet, own, balancer = await _started(stack, plan, 3)
        victim, *others = own
        requests = Requests(
            fleet,
            lambda: balancer.port,
            plan.rate,
            led_to=balancer.led_to,
            killed=victim.port,
            long=_LONG,
        )
        async with requesting(requests):
            outcome.phases.append(requests.begin("before"))
            await asyncio.sleep(plan.seconds)
            await _reserve(victim, fleet)
            for one in others:
                await until(lambda one=one: _has_reserved(one), "the reservations are not heard of")  # type: ignore[misc]
            outcome.phases.append(requests.begin("killed"))
            victim.kill()
            gone = [await until(lambda one=one: _has_none(one), "they stay") for one in others]  # type: ignore[misc]
            await asyncio.sleep(plan.seconds)
            outcome.phases.append(requests.begin("after"))
            await asyncio.sleep(plan.seconds)
        outcome.facts["pods called down"] = str(sum(one.pods_down() for one in own))
    failed = sum(phase.failed for phase in outcome.phases)
    cut = sum(phase.cut for phase in outcome.phases)
    outcome.facts["blocks"] = f"{fleet.blocks:,}"
    outcome.facts["problems"] = "; ".join(requests.problems[:3]) or "none"
    outcome.aim("its reservations are gone within 5 s", sum(gone) < 5.0, f"{sum(gone):.2f} s")
    outcome.aim("no request failed but those on its connections", failed == cut, f"{failed}, of which {cut} on them")
    outcome.steady_hit_rate()
    outcome.no_over_claims()
    return outcome


async def _reserve(replica: Replica, fleet: Fleet) -> None:
    for number in range(_RESERVATIONS):
        body = {"prompt": fleet.conversations[number % len(fleet.conversations)].tolist(), "reserve": True}
        async with replica.session.post(f"{replica.url}/select", json=body) as response:
            response.raise_for_status()


async def _in_flight(replica: Replica) -> int:
    return sum(pod["in_flight"] for pod in (await replica.get("/pods"))[1]["fleet"])


async def _has_reserved(replica: Replica) -> bool:
    return await _in_flight(replica) >= _RESERVATIONS


async def _has_none(replica: Replica) -> bool:
    """Other requests in flight are far fewer."""
    return await _in_flight(replica) < _RESERVATIONS / 2
