"""Three ranks behind a network that loses, repeats, delays and cuts; one of them restarts.

`--chaos-seeds 100` goes through that many storms.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.contract.endpoints import Endpoint
from service.index.base import Prompt, Rank
from service.simulation.engine import SimulatedEngine
from service.simulation.publisher import Publisher, batch_payload
from tests.service.events.conftest import Listen, Listening
from tests.service.events.proxy import Proxy, Weather
from tests.waiting import until

MODEL = "builtin/demo"
STORMY = Weather(loses=0.05, repeats=0.05, delays=0.03)
REQUESTS = 400


@dataclass
class Engine:
    """A rank with a real bounded cache, whose batches go through a proxy."""

    rank: Rank
    publisher: Publisher
    proxy: Proxy
    cache: SimulatedEngine
    prompts: list[list[int]] = field(default_factory=list)
    published: int = 0

    def serve(self, tokens: list[int]) -> None:
        self.prompts.append(tokens)
        for events in self.cache.serve(tokens, chunk=64).batches:
            self._publish(events)

    def reset(self) -> None:
        self._publish(self.cache.clear())

    def _publish(self, events: list[dict[str, Any]]) -> None:
        self.publisher.publish(batch_payload(events, self.rank.number))
        self.published += 1

    def held(self, tokens: list[int]) -> int:
        return self.cache.cached_tokens(tokens)


class Cluster:
    """The engines; their publishers are where they can be started again."""

    def __init__(self, folder: Path, ranks: int, replay: bool, seed: int) -> None:
        self.seed = seed
        self._folder = folder
        self._replay = replay
        self._ranks = [Rank("10.0.0.1:8000", MODEL, number) for number in range(ranks)]
        self._stack = AsyncExitStack()
        self.engines: list[Engine] = []

    async def __aenter__(self) -> Cluster:
        for rank in self._ranks:
            publisher = await self._publisher(rank)
            address = publisher.address
            proxy = await self._stack.enter_async_context(Proxy(address, STORMY, self.seed * 10 + rank.number))
            self.engines.append(Engine(rank, publisher, proxy, SimulatedEngine(200, seed=self.seed + rank.number)))
        return self

    async def __aexit__(self, *error: object) -> None:
        for engine in self.engines:
            await engine.publisher.close()
        await self._stack.aclose()

    @property
    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(engine.proxy.address, replay=self._replay_address(engine.rank) if self._replay else None)
            for engine in self.engines
        ]

    async def restart(self, engine: Engine) -> None:
        """The engine forgets everything and numbers its batches from 0 again, sometimes as it did before."""
        await engine.publisher.close()
        engine.publisher = await self._publisher(engine.rank)
        engine.cache = SimulatedEngine(200, seed=engine.cache.seed + self.seed % 2)
        await engine.publisher.subscribed()

    async def _publisher(self, rank: Rank) -> Publisher:
        publisher = Publisher(
            f"ipc://{self._folder}/events{rank.number}",
            self._replay_address(rank) if self._replay else None,
            topic=f"kv@{rank.pod}@{rank.model}",
        )
        return await publisher.__aenter__()

    def _replay_address(self, rank: Rank) -> str:
        return f"ipc://{self._folder}/replay{rank.number}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--chaos-seeds")))


@pytest.fixture(params=[True, False], ids=["with a replay socket", "without one"])
async def cluster(request: pytest.FixtureRequest, folder: Path, seed: int) -> AsyncIterator[Cluster]:
    async with Cluster(folder, ranks=3, replay=request.param, seed=seed) as cluster:
        yield cluster


async def test_after_chaos_every_answer_is_the_engine_s_or_marked_as_inexact(cluster: Cluster, listen: Listen) -> None:
    listening = await listen(*cluster.endpoints, replay_timeout=1.0)  # a restart leaves requests unanswered
    for engine in cluster.engines:
        await engine.publisher.subscribed()
        await engine.proxy.subscribed()
    await play(cluster, random.Random(cluster.seed))
    for engine in cluster.engines:
        engine.proxy.weather = Weather()
    if cluster.endpoints[0].replay is not None:
        await until(lambda: not wrong_ranks(cluster, listening) and all(exact(listening).values()))
    else:
        await until(lambda: all(exact(listening)[rank] is False for rank in wrong_ranks(cluster, listening)))
        assert listening.pool.statistics.batches_lost
        await clear(cluster, listening)
    assert listening.index.disagreements() == []
    assert sum(engine.published for engine in cluster.engines) > 1000
    assert sum(engine.proxy.lost for engine in cluster.engines) > 50
    assert listening.pool.statistics.restarts >= 1
    assert listening.pool.statistics.batches_repeated > 50


async def play(cluster: Cluster, draw: random.Random) -> None:
    """Conversations on all ranks, with one cut per rank, a reset of the first and a restart of the last in between."""
    cuts = {engine.rank: draw.randrange(50, 280) for engine in cluster.engines}
    restart, reset = draw.randrange(20, 380), draw.randrange(20, 300)
    past: list[list[int]] = [[]]
    for number in range(REQUESTS):
        for engine in cluster.engines:
            start = draw.choice(past)
            tokens = start[: draw.randrange(len(start) + 1)] + [
                draw.randrange(1000) for _ in range(draw.randrange(1, 60))
            ]
            past.append(tokens[:600])
            engine.serve(tokens[:600])
            if number == cuts[engine.rank]:
                await engine.proxy.cut()
            elif number == cuts[engine.rank] + 10:
                await engine.proxy.mend()
                await engine.proxy.subscribed()
        if number == reset:
            cluster.engines[0].reset()
        if number == restart:
            await cluster.restart(cluster.engines[-1])
        await asyncio.sleep(0)


async def clear(cluster: Cluster, listening: Listening) -> None:
    """Resets every engine in clear weather, which makes each rank exact again."""
    for engine in cluster.engines:
        engine.reset()
        for number in range(20):
            engine.serve([number] * 100)

    def heard() -> bool:
        last = {engine.rank: engine.publisher.sequence - 1 for engine in cluster.engines}
        return {rank: state.last_sequence for rank, state in listening.states().items()} == last

    await until(heard)
    await until(lambda: all(exact(listening).values()))
    assert not wrong_ranks(cluster, listening)


def wrong_ranks(cluster: Cluster, listening: Listening) -> set[Rank]:
    wrong = set()
    for engine in cluster.engines:
        for tokens in engine.prompts[-100:]:
            found = {match.rank: match.tokens for match in listening.index.match(Prompt(MODEL, array("I", tokens)))}
            if found.get(engine.rank, 0) != engine.held(tokens):
                wrong.add(engine.rank)
    return wrong


def exact(listening: Listening) -> dict[Rank, bool]:
    return {state.rank: state.exact for state in listening.pool.streams()}
