"""Fifty requests with one long prefix that no pod holds, at once."""

from __future__ import annotations

import asyncio

from service.simulation.scheduler import Speed
from tests.service.engines import chat
from tests.service.gateway.routed import CHAT, Route

PREFIX = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 60
PREFILL_SECONDS = 0.6


async def test_a_burst_is_computed_by_two_pods_at_most_and_nobody_waits_for_two_prefills(route: Route) -> None:
    routed = await route(4)
    async with routed.client.post("/tokenize", json={"prompt": PREFIX}) as response:
        tokens = (await response.json())["count"]
    routed = await route(4, speed=Speed(prefill_rate=tokens / PREFILL_SECONDS))

    async def ask(text: str) -> int:
        async with routed.client.post(CHAT, json=chat(text, max_tokens=1, stream=True)) as response:
            await response.read()
            return response.status

    def computed_tokens() -> list[int]:
        return [sum(rank.queried_tokens - rank.hit_tokens for rank in engine.ranks) for engine in routed.engines]

    await asyncio.gather(*(ask(f"{number} {PREFIX}") for number in range(4)))  # their speed is known from then on
    before = computed_tokens()
    assert await asyncio.gather(*(ask(f"{PREFIX} {number}") for number in range(50))) == [200] * 50
    computed = [after - earlier for after, earlier in zip(computed_tokens(), before, strict=True)]
    assert sum(one > tokens / 2 for one in computed) <= 2, computed
    assert max(computed) < 2 * tokens, "the last of an engine's queue waits for all that it computes"
