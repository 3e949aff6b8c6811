"""Two or three real services that share a real Valkey."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession

from service.contract.endpoints import Endpoint
from service.contract.pods import PodEntry
from service.contract.shared_state import parse_shared_state
from service.simulation.publisher import Publisher
from service.simulation.scheduler import Speed
from service.simulation.server import EngineServer
from tests.service.conftest import Serve
from tests.service.engines import StartEngine, chat, engine_starter
from tests.service.gateway.routed import CHAT, Routed
from tests.service.replicas.replica import Replica, stored, topic
from tests.service.replicas.shared.valkey_server import ValkeyServer
from tests.waiting import PATIENCE, until

BOUND = re.compile(r"Events pool started: .*?(tcp://127\.0\.0\.1:\d+)")
PREFIX = "The harbour office answers questions about the ferry, the pilot boat and the crane. " * 60


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    async with engine_starter() as start:
        yield start


class Fleet:
    """Services that share a Valkey, and engines."""

    def __init__(self, serve: Serve, valkey: ValkeyServer) -> None:
        self._serve = serve
        self._valkey = valkey

    async def replica(self, *engines: EngineServer, **changes: Any) -> Routed:
        pods = tuple(PodEntry(engine.url, engine.pod) for engine in engines)
        settings = {"pods": pods, "health_interval": 0.2, "zmq_endpoint": (), **changes}
        client = await self._serve(shared_state=parse_shared_state(self._valkey.url), **settings)
        routed = Routed(client, engines)
        await routed.until_healthy(len(engines))
        await until_shared(client, "up")
        return routed


@pytest.fixture
def fleet(start_engine: StartEngine, valkey: ValkeyServer, serve: Serve) -> Fleet:
    """The services end before the engines that they are connected to, and before the Valkey."""
    return Fleet(serve, valkey)


async def until_shared(client: ClientSession, state: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.get("/ready") as response:
                if (await response.json())["shared_state"].startswith(state):
                    return
            await asyncio.sleep(0.02)


async def until_replicas(client: ClientSession, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.get("/metrics") as response:
                if f"\nkvcache_replicas {count}.0\n" in await response.text():
                    return
            await asyncio.sleep(0.02)


async def select(replica: Routed, text: str) -> dict[str, Any]:
    async with replica.client.post("/select", json={**chat(text), "reserve": True}) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def test_a_pod_that_is_added_at_one_replica_is_routed_to_by_the_other(
    fleet: Fleet, start_engine: StartEngine
) -> None:
    first, second = [await fleet.replica() for _ in range(2)]
    await until_replicas(first.client, 2)
    engine = await start_engine()
    async with first.client.post("/pods", json={"url": engine.url, "name": "a"}) as response:
        assert response.status == 201
    await second.until_pods(lambda pods: bool(pods.get("a", {}).get("healthy")))
    async with second.client.post(CHAT, json=chat("How deep is the harbour?", max_tokens=1)) as response:
        assert (response.status, response.headers["X-Kvcache-Pod"]) == (200, "a")
    third = await fleet.replica()
    await third.until_pods(lambda pods: bool(pods.get("a", {}).get("healthy")))
    async with second.client.delete("/pods/a") as response:
        assert response.status == 200
    for one in (first, second, third):
        await one.until_pods(lambda pods: not pods)


def computed_by(engine: EngineServer) -> int:
    return sum(rank.queried_tokens - rank.hit_tokens for rank in engine.ranks)


async def until_in_flight(replica: Routed, number: int) -> None:
    await replica.until_pods(lambda pods: sum(pod["in_flight"] for pod in pods.values()) == number)


async def test_a_burst_of_one_prefix_over_two_replicas_is_computed_by_few_pods(
    fleet: Fleet, start_engine: StartEngine
) -> None:
    # Only first tokens come by themselves, so that what is in flight is known.
    speed = Speed(prefill_rate=2000, decode_seconds=PATIENCE)
    engines = [await start_engine(seed=number, speed=speed) for number in range(4)]
    replicas = [await fleet.replica(*engines) for _ in range(2)]
    for one in replicas:
        await until_replicas(one.client, 2)
        # Each learns how fast the engines are: one that is later than expected is given less.
        others = [chat(f"{number} boats. " * 300, max_tokens=1) for number in range(4)]
        answers = await asyncio.gather(*(one.client.post(CHAT, json=other) for other in others))
        assert {answer.headers["X-Kvcache-Pod"] for answer in answers} == {engine.pod for engine in engines}
    computed_before = [computed_by(engine) for engine in engines]
    async with replicas[0].client.post("/tokenize", json={"prompt": PREFIX}) as response:
        tokens = (await response.json())["count"]

    async def ask(number: int) -> ClientResponse:
        body = chat(f"{PREFIX} {number}", max_tokens=2, stream=True)
        response = await replicas[number % 2].client.post(CHAT, json=body)
        await response.content.readany()
        return response

    async with asyncio.TaskGroup() as burst:
        asked = []
        # So few that they add less than a tenth to the work of the prefix: by more, another engine would be sooner.
        for number in range(12):
            # What two replicas decide in the same moment, neither can know of the other.
            await until_in_flight(replicas[number % 2], number)
            asked.append(burst.create_task(ask(number)))
    for task in asked:
        answer = task.result()
        assert answer.status == 200
        answer.close()
    computed = [computed_by(engine) - before for engine, before in zip(engines, computed_before, strict=True)]
    assert sum(one > tokens / 2 for one in computed) <= 2, computed


async def test_a_reservation_counts_at_both_replicas_and_may_be_ended_at_the_other(
    fleet: Fleet, start_engine: StartEngine
) -> None:
    engines = [await start_engine(seed=number) for number in range(2)]
    first, second = [await fleet.replica(*engines) for _ in range(2)]
    await until_replicas(first.client, 2)
    await until_replicas(second.client, 2)
    selected = await select(first, PREFIX)
    pod = selected["pod"]
    url = f"/reservations/{selected['reservation']}"
    await second.until_pods(lambda pods: pods[pod]["in_flight"] == 1)
    async with second.client.post(f"{url}/first_token") as response:
        assert response.status == 200
    async with second.client.delete(url) as response:
        assert response.status == 200
    for one in (first, second):
        await one.until_pods(lambda pods: pods[pod]["in_flight"] == 0)


async def test_no_request_fails_or_waits_while_valkey_is_killed_and_it_is_said(
    fleet: Fleet, start_engine: StartEngine, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    engines = [await start_engine(seed=number) for number in range(2)]
    replicas = [await fleet.replica(*engines) for _ in range(2)]
    for one in replicas:
        await until_replicas(one.client, 2)
    statuses: list[int] = []
    is_over = asyncio.Event()

    async def ask(number: int) -> None:
        turn = 0
        while not is_over.is_set():
            turn += 1
            body = chat(f"Request {number}, turn {turn}", max_tokens=1, stream=True)
            async with replicas[number % 2].client.post(CHAT, json=body) as response:
                await response.read()
                statuses.append(response.status)

    asking = [asyncio.create_task(ask(number)) for number in range(4)]
    valkey.kill()
    for one in replicas:
        await until_shared(one.client, "down since")
        async with one.client.get("/ready") as response:
            assert response.status == 200
        assert "\nkvcache_shared_state_up 0.0\n" in await (await one.client.get("/metrics")).text()
    before = len(statuses)
    await until(lambda: len(statuses) >= before + 40)
    valkey.launch()
    for one in replicas:
        await until_shared(one.client, "up")
        await until_replicas(one.client, 2)
    is_over.set()
    await asyncio.gather(*asking)
    assert set(statuses) == {200}
    said = [record.message for record in caplog.records if " is down: " in record.message]
    assert len(said) == len(replicas)


async def test_an_engine_that_connects_to_one_replica_is_known_to_both_and_to_a_third_that_starts_later(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bound = (Endpoint("tcp://127.0.0.1:*"),)
    first, second = [Replica((await fleet.replica(zmq_endpoint=bound)).client) for _ in range(2)]
    await until_replicas(first.client, 2)
    address = next(found[1] for found in map(BOUND.search, caplog.messages) if found is not None)
    async with Publisher(address, None, topic=topic("a"), binds=False) as engine:
        await engine.subscribed()
        for number in range(3):
            engine.publish(stored(number))
        third = Replica((await fleet.replica(zmq_endpoint=bound)).client)
        for replica in (first, second, third):
            await replica.becomes("a", last_sequence=2, exact=True, connected=True)
            assert [await replica.holds(number) for number in range(3)] == [{"a"}] * 3
        engine.publish(stored(3))
        for replica in (first, second, third):
            await replica.becomes("a", last_sequence=3, exact=True)
    for replica in (first, second, third):
        await replica.becomes("a", connected=False)


async def test_the_load_of_a_replica_that_is_killed_ends_within_seconds(
    fleet: Fleet, start_engine: StartEngine, valkey: ValkeyServer, folder: Path
) -> None:
    engine = await start_engine()
    alive = await fleet.replica(engine)
    environment = {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "PYTHONPATH"}},
        "CONTAINER_ENV": "true",
        "MODEL_NAME": "builtin/demo",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "PODS": engine.url,
        "SHARED_STATE": valkey.url,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "serve"), env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while (
                found := re.search(rb"listening on http://127\.0\.0\.1:(\d+)", await process.stdout.readline())
            ) is None:
                assert not process.stdout.at_eof()
        await until_replicas(alive.client, 2)
        async with ClientSession(f"http://127.0.0.1:{int(found[1])}") as client:
            killed = Routed(client, [engine])
            await killed.until_healthy(1)
            await until_shared(client, "up")
            await select(killed, PREFIX)
        await alive.until_pods(lambda pods: pods[engine.pod]["in_flight"] == 1)
    finally:
        process.kill()
        await process.communicate()
    await alive.until_pods(lambda pods: pods[engine.pod]["in_flight"] == 0)
    await until_replicas(alive.client, 1)
