"""What is not known for certain is never called exact, and what only looks like a restart is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import zmq
import zmq.asyncio

from service.contract.endpoints import Endpoint
from service.events.arrival import read_arrival
from service.events.batch_order import BatchOrder, SequenceLog
from service.index.base import Rank
from service.simulation.publisher import END, Publisher
from tests.service.events.batches import (
    NEVER,
    RANK,
    TOPIC,
    batch,
    becomes_exact,
    endpoint,
    held,
    introduced,
    state,
    stored,
)
from tests.service.events.conftest import Listen
from tests.waiting import until


@asynccontextmanager
async def router() -> AsyncIterator[tuple[zmq.asyncio.Socket, str]]:
    """A replay socket that answers as a test says."""
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind("tcp://127.0.0.1:*")
        yield socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)


async def test_a_replay_socket_that_keeps_nothing_is_no_sign_of_a_restart(listen: Listen) -> None:
    async with Publisher(topic=TOPIC, buffered=0) as publisher:
        listening = await listen(endpoint(publisher), pod_ttl=0.1)
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await listening.heard({RANK: 2})
        asked = listening.pool.statistics.replays
        await until(lambda: listening.pool.statistics.replays > asked + 1)  # the one before the last is answered
        assert held(listening) == {0, 2}
        assert state(listening) == (False, "batches 1 to 1 were lost")
        assert listening.pool.statistics.restarts == 0


async def test_a_gap_that_a_restarted_engine_fills_with_its_own_batches_is_found_out(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        for number in range(3):
            publisher.publish(stored(number))
        await listening.heard({RANK: 2})
        publisher.forget()
        for number in range(6):
            publisher.publish(stored(20 + number, time=2.0), sequence=number, lost=number < 5)
        await listening.heard({RANK: 5})
        await becomes_exact(listening)
        assert held(listening) == set(range(20, 26))


async def test_a_replay_that_breaks_off_leaves_the_rank_inexact(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher, router() as (socket, address):
        listening = await listen(Endpoint(publisher.address, replay=address), first_check=NEVER)
        for sequences in ([0], [0, 1], [], []):  # the first request asks who is there
            identity, *_ = await socket.recv_multipart()
            for sequence in sequences:
                reply = (TOPIC.encode(), sequence.to_bytes(8, "big"), stored(sequence))
                await socket.send_multipart((identity, b"", *reply))
            await socket.send_multipart((identity, b"", b"no reply"))
        await until(lambda: listening.pool.statistics.replay_failures == 1)
        assert held(listening) == {0, 1}
        assert state(listening) == (False, "a replay is under way")
        await publisher.subscribed()
        publisher.publish(stored(2), sequence=2)
        await becomes_exact(listening)


async def test_a_hole_in_a_replay_is_asked_for_again(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher, router() as (socket, address):
        listening = await listen(Endpoint(publisher.address, replay=address))
        starts = []
        for sequences in ([0], [0, 1, 3], [1, 2, 3]):
            identity, _, start = await socket.recv_multipart()
            starts.append(int.from_bytes(start, "big"))
            for sequence in sequences:
                reply = (TOPIC.encode(), sequence.to_bytes(8, "big"), stored(sequence))
                await socket.send_multipart((identity, b"", *reply))
            await socket.send_multipart((identity, b"", b"", END, b""))
        await until(lambda: held(listening) == {0, 1, 2, 3})
        await becomes_exact(listening)
        assert starts == [0, 0, 1]


async def test_a_pod_that_is_forgotten_during_a_replay_stays_forgotten(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher, router() as (socket, address):
        listening = await listen(Endpoint(publisher.address, replay=address))
        await publisher.subscribed()
        identity, *_ = await socket.recv_multipart()
        await socket.send_multipart((identity, b"", b"", END, b""))
        publisher.publish(stored(0), sequence=3)
        identity, *_ = await socket.recv_multipart()
        assert listening.pool.forget(RANK.pod) is True
        await socket.send_multipart((identity, b"", TOPIC.encode(), bytes(8), stored(1)))
        await socket.send_multipart((identity, b"", b"", END, b""))
        other = Rank("b", "m")
        publisher.publish_frames([b"kv@b@m", bytes(8), stored(2)])
        identity, *_ = await socket.recv_multipart()  # the check of the other one, after the replay of the first
        await socket.send_multipart((identity, b"", b"", END, b""))
        await until(lambda: set(listening.states()) == {other} and held(listening, other) == {2})
        assert [held.rank for held in listening.index.ranks()] == [other]


async def test_a_replay_socket_of_another_pod_is_not_believed(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher, Publisher(topic="kv@other@m") as other:
        for number in range(4):
            other.publish(stored(50 + number), lost=True)
        listening = await listen(Endpoint(publisher.address, replay=other.replay), topic="kv@10")
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(stored(2), sequence=2)
        await until(lambda: RANK in listening.states() and listening.states()[RANK].last_sequence == 2)
        assert held(listening) == {0, 2}
        assert state(listening) == (False, "batches 1 to 1 were lost")


async def test_a_last_batch_that_cannot_be_read_makes_the_rank_inexact(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher, replay=False))
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(b"\xc1 no msgpack")
        await listening.heard({RANK: 1})
        assert state(listening) == (False, "an event could not be read (no msgpack)")
        assert listening.pool.statistics.skipped == {"no msgpack": 1}


async def test_an_event_that_no_replay_makes_readable_empties_the_rank_once_at_most(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher), pod_ttl=0.1)
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(batch({"type": "FromTheFuture"}))
        await listening.heard({RANK: 1})
        await until(lambda: listening.pool.statistics.replays >= 3)
        assert held(listening) == {0}
        assert state(listening) == (False, "an event could not be read (unknown event)")
        assert listening.index.statistics.cleared <= 1


async def test_two_engines_that_connect_to_us_under_one_name_are_inexact(listen: Listen, folder: Path) -> None:
    address = f"ipc://{folder}/events"
    listening = await listen(Endpoint(address))
    async with (
        Publisher(address, None, topic=TOPIC, binds=False) as one,
        Publisher(address, None, topic=TOPIC, binds=False) as other,
    ):
        for publisher, number in ((one, 0), (other, 1)):
            await publisher.subscribed()
            publisher.publish(stored(number))
            await until(lambda number=number: number in held(listening))  # type: ignore[misc]
        other.publish(stored(2))
        await listening.heard({RANK: 1})
        assert state(listening) == (False, "several engines publish under its name")


async def test_a_rank_that_moves_to_another_endpoint_leaves_its_blocks_behind(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as after:
        before = Publisher(topic=TOPIC)
        await before.__aenter__()
        listening = await listen(endpoint(before), endpoint(after))
        await before.subscribed()
        await after.subscribed()
        before.publish(stored(0))
        await listening.heard({RANK: 0})
        await before.close()
        await until(lambda: not listening.states()[RANK].connected)
        after.publish(stored(1))
        await until(lambda: held(listening) == {1})
        await becomes_exact(listening)


async def test_a_rank_that_is_at_two_endpoints_for_a_while_is_filled_from_the_one_that_stays(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as after:
        before = Publisher(topic=TOPIC)
        await before.__aenter__()
        listening = await listen(endpoint(before), endpoint(after))
        await introduced(before, after)
        before.publish(stored(0))
        await until(lambda: held(listening) == {0})
        after.publish(stored(1))
        await until(lambda: listening.pool.statistics.claims_refused.total() == 1)
        await before.close()
        await until(lambda: held(listening) == {1} and state(listening) == (True, None))


async def test_an_introduction_that_outlasts_the_connection_makes_no_second_endpoint(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as after, router() as (socket, address):
        before = Publisher(replay=None, topic=TOPIC)
        await before.__aenter__()
        listening = await listen(Endpoint(before.address, replay=address), endpoint(after), pod_ttl=0.1)
        await after.subscribed()
        identity, *_ = await socket.recv_multipart()
        await before.close()
        await until(lambda: not listening.pool._subscriptions[0].connections)
        await socket.send_multipart((identity, b"", TOPIC.encode(), bytes(8), stored(0)))
        await socket.send_multipart((identity, b"", b"", END, b""))
        after.publish(stored(1))
        await until(lambda: held(listening) == {1} and state(listening) == (True, None))


async def test_names_that_a_publisher_makes_up_have_a_limit(listen: Listen) -> None:
    async with Publisher() as publisher:
        listening = await listen(endpoint(publisher, replay=False), topic="", max_streams=5)
        await publisher.subscribed()
        for number in range(20):
            publisher.publish_frames([f"kv@p{number}@m".encode(), bytes(8), stored(number)])
        await until(lambda: listening.pool.statistics.skipped["too many ranks"] == 15)
        assert len(listening.states()) == len(list(listening.index.ranks())) == 5


def heard(log: SequenceLog, sequence: int, number: int, time: float) -> BatchOrder:
    """Classifies a batch, and takes it where it is next or what comes after a loss."""
    arrival = read_arrival(sequence, stored(number, time=time))
    order = log.classify(arrival, reconnected=False)
    if order is BatchOrder.RESTARTED:
        log.restart(arrival.batch.timestamp)
    if order is not BatchOrder.REPEATED:
        log.append(sequence, arrival.digest, time)
    return order


def test_a_clock_that_is_set_back_silences_no_engine() -> None:
    log = SequenceLog()
    orders = [heard(log, number, number, 1000.0 - 100 * number) for number in range(5)]
    assert orders == [BatchOrder.NEXT] * 5


def test_a_sequence_that_starts_over_after_thousands_of_batches_is_a_restart_without_times_too() -> None:
    log = SequenceLog()
    for number in range(3000):
        heard(log, number, number, 0.0)
    assert heard(log, 0, 0, 0.0) is BatchOrder.REPEATED
    assert heard(log, 0, 9999, 0.0) is BatchOrder.RESTARTED


def test_of_numbers_given_up_as_lost_only_what_is_sent_later_is_a_restart() -> None:
    log = SequenceLog()
    assert heard(log, 5, 5, 10.0) is BatchOrder.GAP
    assert heard(log, 3, 3, 9.0) is BatchOrder.REPEATED
    assert heard(log, 3, 3, 11.0) is BatchOrder.RESTARTED
