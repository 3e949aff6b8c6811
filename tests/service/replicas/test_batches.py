"""Two replicas to which engines connect, each at a port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import pytest

from service.contract.endpoints import Endpoint
from service.events.pool import EventPool, StreamReport
from service.index.memory import MemoryIndex
from service.replicas.batches import SharedBatches
from service.replicas.shared.state import SharedState
from service.simulation.publisher import Publisher
from tests.service.events.batches import stored
from tests.service.replicas.shared.joined import Between, Joined
from tests.waiting import until

TOPIC = "kv@a@m"
BOUND = Endpoint("tcp://127.0.0.1:*")


class Replica:
    def __init__(self, pool: EventPool, index: MemoryIndex, carrier: Joined, state: SharedState) -> None:
        self.pool = pool
        self.index = index
        self.carrier = carrier
        self.state = state

    @property
    def stream(self) -> StreamReport | None:
        return next(iter(self.pool.streams()), None)

    async def has(self, blocks: int, *, exact: bool = True) -> None:
        """Waits until the rank has so many blocks, and is exact or not."""

        def holds() -> bool:
            stream = self.stream
            return stream is not None and (self.index.blocks, stream.exact) == (blocks, exact)

        await until(holds)


Join: TypeAlias = Callable[[str], Awaitable[Replica]]


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    between = Between()
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Replica:
            index = MemoryIndex(1_000_000)
            pool = EventPool([BOUND], index, topic="kv@", default_model="m")
            stack.push_async_callback(pool.close)
            await pool.start()
            carrier = between.carrier()
            state = SharedState(carrier, name)
            sharing = asyncio.create_task(SharedBatches(state, pool).run())

            async def stop() -> None:
                sharing.cancel()
                await asyncio.gather(sharing, return_exceptions=True)
                await state.close()

            stack.push_async_callback(stop)
            await state.start()
            return Replica(pool, index, carrier, state)

        yield start


async def connected(replica: Replica, sequence: int = 0) -> Publisher:
    """An engine that has connected to a replica, and published so many batches before."""
    publisher = Publisher(replica.pool.addresses()[0], None, topic=TOPIC, binds=False)
    await publisher.__aenter__()
    publisher.sequence = sequence
    await publisher.subscribed()
    return publisher


async def test_an_engine_that_connects_to_one_replica_is_heard_by_all_also_by_one_that_starts_later(
    join: Join,
) -> None:
    first, second = await join("first"), await join("second")
    engine = await connected(first)
    for number in range(3):
        engine.publish(stored(number))
    third = await join("third")
    for replica in (first, second, third):
        await replica.has(3)
    engine.publish(stored(3))
    for replica in (first, second, third):
        await replica.has(4)
    await engine.close()
    await until(lambda: all(one.stream is not None and not one.stream.connected for one in (first, second, third)))


async def test_an_engine_that_connects_to_another_replica_continues_its_stream_everywhere(join: Join) -> None:
    first, second = await join("first"), await join("second")
    engine = await connected(first)
    engine.publish(stored(0))
    await second.has(1)
    await engine.close()
    await until(lambda: second.stream is not None and not second.stream.connected)
    engine = await connected(second, sequence=1)
    engine.publish(stored(1))
    for replica in (first, second):
        await until(lambda replica=replica: replica.index.blocks == 2)  # type: ignore[misc]
        stream = replica.stream
        assert stream is not None
        assert (stream.last_sequence, stream.connected) == (1, True)
    await engine.close()


async def test_batches_that_were_missed_make_the_rank_inexact_at_the_replica_that_missed_them(join: Join) -> None:
    first, second = await join("first"), await join("second")
    engine = await connected(first)
    engine.publish(stored(0))
    await second.has(1)
    first.carrier.is_cut = True
    engine.publish(stored(1))
    await first.has(2)
    first.carrier.mend()
    engine.publish(stored(2))
    await first.has(3)
    await until(lambda: second.stream is not None and not second.stream.exact)
    await engine.close()


async def test_the_connections_of_a_replica_that_is_gone_have_ended(join: Join) -> None:
    first, second = await join("first"), await join("second")
    engine = await connected(first)
    engine.publish(stored(0))
    await second.has(1)
    first.pool.on_bound_disconnect = lambda endpoint, connection: None
    first.carrier.is_cut = True
    second.state.remove("connections", next(iter(second.state.values("connections"))))
    await until(lambda: second.stream is not None and not second.stream.connected)
    await engine.close()
