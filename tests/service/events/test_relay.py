"""Engines that connect to an address that one process binds for several workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from service.contract.endpoints import Endpoint
from service.events.relay import Relay, Relayed
from service.simulation.publisher import Publisher
from tests.service.events.batches import RANK, TOPIC, becomes_exact, held, stored
from tests.service.events.conftest import Listen, Listening
from tests.waiting import until

ANY_PORT = "tcp://127.0.0.1:*"


@pytest.fixture
async def socket(folder: Path) -> AsyncIterator[Path]:
    """The Unix socket of a relay."""
    relay = Relay(topic="kv@", concurrency=4, high_water=1000)
    await relay.start(folder / "relay")
    yield folder / "relay"
    await relay.close()


@dataclass
class Two:
    """Two workers that want the same endpoint, and its address."""

    first: Listening
    second: Listening

    async def address(self) -> str:
        await until(lambda: self.bound != ANY_PORT and self.bound == self.second.pool.addresses()[0])
        return self.bound

    @property
    def bound(self) -> str:
        return self.first.pool.addresses()[0]


@pytest.fixture
async def two(listen: Listen, socket: Path) -> Two:
    endpoint = Endpoint(ANY_PORT)
    return Two(await listen(endpoint, relayed=Relayed(socket)), await listen(endpoint, relayed=Relayed(socket)))


async def test_all_workers_hear_an_engine_that_connects_once(two: Two) -> None:
    async with Publisher(await two.address(), topic=TOPIC, binds=False) as publisher:
        await publisher.subscribed()
        for number in range(20):
            publisher.publish(stored(number))
        for worker in (two.first, two.second):
            await until(lambda worker=worker: held(worker) == set(range(20)))  # type: ignore[misc]
            await becomes_exact(worker)
            assert worker.pool.statistics.gaps == 0
            (report,) = worker.pool.endpoints()
            assert (report.state, report.connections, report.messages) == ("heard", 1, 20)


async def test_a_gap_is_a_gap_for_each_worker(listen: Listen, socket: Path) -> None:
    async with Publisher(topic=TOPIC) as replayed:
        endpoint = Endpoint(ANY_PORT, replay=replayed.replay)
        workers = [await listen(endpoint, relayed=Relayed(socket)) for _ in range(2)]
        await until(lambda: all(worker.pool.addresses() != [ANY_PORT] for worker in workers))
        async with Publisher(workers[0].pool.addresses()[0], topic=TOPIC, binds=False) as publisher:
            await publisher.subscribed()
            for number in range(3):
                replayed.publish(stored(number))
                if number != 1:
                    publisher.publish_frames([TOPIC.encode(), number.to_bytes(8, "big"), stored(number)])
            for worker in workers:
                await until(lambda worker=worker: held(worker) == {0, 1, 2})  # type: ignore[misc]
                assert worker.pool.statistics.gaps == 1


async def test_each_worker_is_told_that_a_connection_has_ended(two: Two) -> None:
    async with Publisher(await two.address(), topic=TOPIC, binds=False) as publisher:
        await publisher.subscribed()
        publisher.publish(stored(0))
        for worker in (two.first, two.second):
            await worker.heard({RANK: 0})
    for worker in (two.first, two.second):
        await until(lambda worker=worker: not worker.states()[RANK].connected)  # type: ignore[misc]
        assert worker.pool.endpoints()[0].state == "listening"


async def test_a_worker_that_starts_later_hears_of_connections_and_from_then_on(
    two: Two, listen: Listen, socket: Path
) -> None:
    async with Publisher(await two.address(), topic=TOPIC, binds=False) as publisher:
        await publisher.subscribed()
        publisher.publish(stored(0))
        await two.first.heard({RANK: 0})
        third = await listen(Endpoint(ANY_PORT), relayed=Relayed(socket))
        await until(lambda: third.pool.endpoints()[0].connections == 1)
        publisher.publish(stored(1))
        await until(lambda: held(third) == {1})
        assert third.states()[RANK].exact is False


async def test_an_address_is_free_when_the_last_worker_has_left_it(two: Two) -> None:
    address = await two.address()
    two.first.pool.unfollow(Endpoint(ANY_PORT))
    with zmq.Context() as context, context.socket(zmq.SUB) as other:
        assert not binds(other, address)
        two.second.pool.unfollow(Endpoint(ANY_PORT))
        await until(lambda: binds(other, address))


def binds(socket: zmq.Socket[bytes], address: str) -> bool:
    try:
        socket.bind(address)
    except zmq.ZMQError:
        return False
    return True


async def test_an_address_that_is_taken_is_a_problem_of_each_worker_until_it_is_free(
    listen: Listen, socket: Path
) -> None:
    holder = await listen(Endpoint(ANY_PORT))
    taken = Endpoint(holder.pool.addresses()[0].replace("tcp://127.0.0.1", "tcp://*"))
    workers = [await listen(taken, relayed=Relayed(socket)) for _ in range(2)]
    await until(lambda: all(worker.pool.problems() for worker in workers))
    assert all("cannot bind" in worker.pool.problems()[0] for worker in workers)
    await holder.pool.close()
    await until(lambda: not any(worker.pool.problems() for worker in workers))
