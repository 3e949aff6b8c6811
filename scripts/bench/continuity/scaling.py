"""The same load through 1, 2, 4, … replicas: whether they choose as one, and what the Valkey between them carries."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from time import monotonic

from scripts.bench.continuity.fleet import BLOCK_SIZE, TURN_TOKENS, Fleet, engines
from scripts.bench.continuity.outcome import Outcome, Phase
from scripts.bench.continuity.plan import Plan
from scripts.bench.continuity.requests import Failed, ask
from scripts.bench.continuity.services import Replica, replicas
from scripts.bench.continuity.valkey import Counts, Valkey, valkey
from service.simulation.scheduler import Speed

_CONVERSATIONS_PER_POD = 24
_TURNS = 5
_FIRST_TOKENS = 64 * BLOCK_SIZE
_SPEED = Speed(prefill_rate=10_000, decode_seconds=0.01)
_GENERATED = 32


@dataclass
class _Load:
    """Conversations that begin anew; each turn goes to the next replica, as a balancer does."""

    fleet: Fleet
    own: list[Replica]
    follow_up: Phase
    requests: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    sent: int = 0

    async def run(self, rate: float) -> None:
        """Turns of all conversations in a random order, a conversation's own one after the other."""
        count = _CONVERSATIONS_PER_POD * len(self.fleet.pods)
        prompts = [self.fleet.tokens(_FIRST_TOKENS) for _ in range(count)]
        busy = [asyncio.Lock() for _ in range(count)]
        order = [number for number in range(count) for _ in range(_TURNS)]
        self.fleet.random.shuffle(order)
        began = monotonic()
        async with asyncio.TaskGroup() as turns:
            for at, number in enumerate(order):
                await asyncio.sleep(max(0.0, began + at / rate - monotonic()))
                turns.create_task(self._turn(prompts[number], busy[number]))

    async def _turn(self, prompt: array[int], busy: asyncio.Lock) -> None:
        async with busy:
            is_follow_up = len(prompt) > _FIRST_TOKENS
            prompt.extend(self.fleet.tokens(TURN_TOKENS))
            self.sent += 1
            began = monotonic()
            try:
                answer = await ask(self.own[self.sent % len(self.own)].port, prompt, generate=_GENERATED)
            except Failed as failed:
                self.follow_up.failed += 1
                self.problems.append(str(failed))
                return
        self.requests[answer.pod] += 1
        if is_follow_up:
            phase = self.follow_up
            phase.decisions += 1
            phase.elsewhere += answer.predicted == 0
            phase.prompt_tokens += len(prompt)
            phase.reused_tokens += answer.cached
            phase.seconds.append(monotonic() - began)
            if answer.predicted is not None and answer.predicted > answer.cached:
                phase.too_much += 1
                phase.over_claims += "inexact" not in answer.basis


async def scaling(name: str, plan: Plan) -> Outcome:
    outcome = Outcome(name)
    shares = []
    for count in plan.replicas:
        async with _replicas(plan, count) as (fleet, own, store):
            load = _Load(fleet, own, Phase(f"{count} replica{'s' if count > 1 else ''}, follow-up"))
            before, began = await store.counts(), monotonic()
            await load.run(plan.rate)
            outcome.facts[f"pods called down, {count}"] = str(sum(one.pods_down() for one in own))
            _tell_store(outcome, count, before, await store.counts(), monotonic() - began)
        outcome.phases.append(load.follow_up)
        share = max(load.requests.values()) * plan.pods / sum(load.requests.values())
        shares.append(share)
        outcome.facts[f"busiest pod, {count}"] = f"{share:.2f} of its share"
        if load.problems:
            outcome.facts[f"problems, {count}"] = "; ".join(load.problems[:3])
    outcome.none_failed()
    outcome.steady_hit_rate()
    outcome.aim("no pod gets 1.2 times its share", max(shares) < 1.2, f"{max(shares):.2f}")
    outcome.no_over_claims()
    return outcome


@asynccontextmanager
async def _replicas(plan: Plan, count: int) -> AsyncIterator[tuple[Fleet, list[Replica], Valkey]]:
    small = replace(plan, blocks=0)
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(engines(small, speed=_SPEED))
        store = await stack.enter_async_context(valkey())
        made = await stack.enter_async_context(replicas())
        shared = {"SHARED_STATE": store.url} if count > 1 else {}
        own = [made.make(PODS=fleet.urls, STATE_DIR="", **shared) for _ in range(count)]
        for one in own:
            one.start()
        for one in own:
            await one.ready()
            await one.forwards_to(len(fleet.pods))
            if count > 1:
                await one.knows_replicas(count)
        for pod in fleet.pods:
            await pod.publisher.subscribed()
        yield fleet, own, store


def _tell_store(outcome: Outcome, count: int, before: Counts, after: Counts, seconds: float) -> None:
    if count == 1:
        return
    commands, taken, given = ((after[at] - before[at]) / seconds / count for at in range(3))
    outcome.facts[f"Valkey, {count} replicas"] = (
        f"{commands:.0f} commands/s, {taken / 1024:.0f} KB/s in and {given / 1024:.0f} KB/s out for each, "
        f"{after.memory / (1 << 20):.1f} MB"
    )
