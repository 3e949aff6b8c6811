"""Simulated engines behind HTTP, with their event and replay sockets, and the conversations that they hold."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from scripts.bench.continuity.plan import Plan
from scripts.bench.servers import ROOT
from service.contract.settings import Settings
from service.native.backend import COMPILED
from service.prompts.models.catalog import Models
from service.prompts.options import CacheBudget, PromptOptions
from service.simulation.engine import SimulatedEngine
from service.simulation.publisher import Publisher, batch_payload
from service.simulation.scheduler import Scheduler, Speed
from service.simulation.server import EngineOptions, EngineServer, serving

MODEL = "builtin/demo"
BLOCK_SIZE = 16
TURN_TOKENS = 5 * BLOCK_SIZE


@dataclass
class Pod:
    server: EngineServer

    @property
    def name(self) -> str:
        return self.server.pod

    @property
    def rank(self) -> Scheduler:
        (rank,) = self.server.ranks
        return rank

    @property
    def cache(self) -> SimulatedEngine:
        return self.rank.cache

    @property
    def publisher(self) -> Publisher:
        return self.rank.publisher

    def restart(self) -> None:
        """An empty cache with other hashes, and a sequence that begins anew."""
        self.rank.cache = SimulatedEngine(self.cache.blocks, BLOCK_SIZE, self.cache.seed + 1000)
        self.publisher.forget()
        self.publisher.sequence = 0

    def serve(self, tokens: Sequence[int]) -> int:
        """Serves a prompt without HTTP and publishes its events; gives the reused tokens."""
        served = self.cache.serve(tokens)
        for events in served.batches:
            self.publisher.publish(batch_payload(events))
        return served.cached_tokens


@dataclass
class Fleet:
    pods: list[Pod]
    random: random.Random
    conversations: list[array[int]] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return sum(pod.cache.held for pod in self.pods)

    @property
    def urls(self) -> str:
        """As in PODS."""
        return ",".join(pod.server.url for pod in self.pods)

    def endpoints(self, *, replay: bool) -> str:
        """As in ZMQ_ENDPOINT."""
        return ",".join(
            pod.publisher.address + (f",replay={pod.publisher.replay}" if replay else "") for pod in self.pods
        )

    def tokens(self, count: int) -> array[int]:
        return array("I", self.random.choices(range(1, 30_000), k=count))

    async def fill(self, blocks: int, each: int) -> None:
        """Spreads conversations of `each` blocks over the engines, once somebody listens."""
        for pod in self.pods:
            await pod.publisher.subscribed()
        for number in range(blocks // each):
            conversation = self.tokens(each * BLOCK_SIZE)
            self.conversations.append(conversation)
            self.pods[number % len(self.pods)].serve(conversation)
            await asyncio.sleep(0)

    def turn(self) -> array[int]:
        """The prompt of a conversation's next turn, which goes on from a random conversation's last one."""
        conversation = self.random.choice(self.conversations)
        conversation.extend(self.tokens(TURN_TOKENS))
        return conversation

    def holders(self, tokens: Sequence[int]) -> set[str]:
        """The pods that hold a prefix."""
        return {pod.name for pod in self.pods if pod.cache.cached_tokens(tokens[:BLOCK_SIZE])}


@asynccontextmanager
async def engines(plan: Plan, *, seed: int = 0, speed: Speed | None = None) -> AsyncIterator[Fleet]:
    """Engines that evict nothing, so that a prediction above what one holds is wrong at any time."""
    room = 2 * plan.blocks // plan.pods + 100_000
    settings = Settings(container_env=True, models_dir=ROOT / "models")
    options = PromptOptions.of(settings, CacheBudget.of(settings.token_cache_bytes, compiled=COMPILED))
    models = Models(options, lambda _: True)
    first = plan.seed + seed
    async with AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        model = await models.get(MODEL)
        pods = []
        for number in range(plan.pods):
            one = EngineOptions(
                (MODEL,), blocks=room, block_size=BLOCK_SIZE, seed=first + number, speed=speed or Speed()
            )
            pods.append(Pod(await stack.enter_async_context(serving(one, model))))
        yield Fleet(pods, random.Random(first))
