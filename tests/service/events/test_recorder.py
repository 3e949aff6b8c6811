from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from service.contract.endpoints import Endpoint
from service.events.recorder import Recorder
from service.events.recording import Recorded, Recording
from service.simulation.publisher import Publisher
from tests.ipv6 import needs_ipv6
from tests.service.events.proxy import Proxy, Weather
from tests.service.playback import playing
from tests.waiting import PATIENCE, reserved_port, until

TOPIC = "kv@pod@m"


class Written:
    """A recorder and what it has written."""

    def __init__(self, limit: int | None, fails_at: int | None) -> None:
        self.messages: list[Recorded] = []
        self._limit = limit
        self._fails_at = fails_at
        self.recorder: Recorder

    def write(self, message: Recorded) -> bool:
        if len(self.messages) == self._fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.messages.append(message)
        return len(self.messages) != self._limit

    @property
    def sequences(self) -> list[int]:
        return [message.sequence for message in self.messages]

    async def has(self, *sequences: int) -> None:
        await until(lambda: self.sequences == list(sequences))


Record: TypeAlias = Callable[..., Awaitable[Written]]


@pytest.fixture
async def record() -> AsyncIterator[Record]:
    async with AsyncExitStack() as stack:

        async def start(*endpoints: Endpoint, limit: int | None = None, fails_at: int | None = None) -> Written:
            written = Written(limit, fails_at)
            written.recorder = Recorder(endpoints, "kv@", "m", written.write)
            stack.push_async_callback(written.recorder.close)
            written.recorder.start()
            return written

        yield start


def payload(text: str = "", rank: int = 0) -> bytes:
    """A batch that means nothing; other texts make other bytes."""
    return msgspec.msgpack.encode([1.0, [{"type": "AllBlocksCleared", "note": text}], rank])


def endpoint(publisher: Publisher) -> Endpoint:
    return Endpoint(publisher.address, replay=publisher.replay)


@pytest.mark.parametrize("name", ["a_simple", "c_lora_salt", "g_dp", "f_steps"])
async def test_what_engines_publish_is_written_as_it_was_recorded_before(
    record: Record, recordings: Path, name: str
) -> None:
    with (recordings / f"{name}.jsonl").open("rb") as lines:
        messages = list(Recording(lines))
    async with playing(messages) as playback:
        written = await record(*playback.endpoints)
        await playback.play()
        await until(lambda: len(written.messages) == len(messages))
    anonymous = [message._replace(pod="") for message in written.messages]
    assert sorted(anonymous) == sorted(message._replace(pod="") for message in messages)
    for topic in {message.topic for message in messages if name != "g_dp"}:
        sequences = [message.sequence for message in written.messages if message.topic == topic]
        assert sequences == sorted(sequences)


async def test_what_was_published_before_comes_from_the_replay_socket(record: Record) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        for number in range(3):
            publisher.publish(payload(str(number)))
        written = await record(endpoint(publisher))
        await written.has(0, 1, 2)
        assert written.recorder.statistics.replayed == 3
        publisher.publish(payload("3"))
        await written.has(0, 1, 2, 3)
        assert written.recorder.statistics.missing == 0
        assert {message.topic for message in written.messages} == {TOPIC.encode()}


@needs_ipv6
async def test_an_engine_at_an_ipv6_address_is_recorded_with_its_replay(record: Record) -> None:
    async with Publisher("tcp://[::1]:*", "tcp://[::1]:*", topic=TOPIC) as publisher:
        publisher.publish(payload(), lost=True)
        written = await record(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(payload())
        await written.has(0, 1)


async def test_a_replay_after_a_lost_connection_brings_nothing_twice(record: Record) -> None:
    async with Publisher(topic=TOPIC) as publisher, Proxy(publisher.address, Weather()) as proxy:
        written = await record(Endpoint(proxy.address, replay=publisher.replay))
        await publisher.subscribed()
        await proxy.subscribed()
        for number in range(3):
            publisher.publish(payload(str(number)))
        await written.has(0, 1, 2)
        requests = publisher.requests
        await proxy.cut()
        publisher.publish(payload("3"))
        await proxy.mend()
        await until(lambda: publisher.requests > requests)
        await written.has(0, 1, 2, 3)
        assert written.recorder.statistics.restarts == 0


async def test_a_gap_is_filled_before_what_follows_it_is_written(record: Record) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        written = await record(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(payload("0"))
        await written.has(0)
        for number in range(1, 5):
            publisher.publish(payload(str(number)), lost=number in {1, 2})
        await written.has(0, 1, 2, 3, 4)
        assert written.recorder.statistics.missing == 0


async def test_replies_without_a_topic_get_that_of_the_live_stream(record: Record) -> None:
    async with Publisher(topic=TOPIC, repeats_topic=False) as publisher:
        publisher.publish(payload("0"))
        written = await record(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(payload("1"))
        await written.has(0, 1)
        assert {message.topic for message in written.messages} == {TOPIC.encode()}


async def test_without_a_replay_socket_what_is_missing_is_counted(record: Record) -> None:
    async with Publisher(topic=TOPIC, replay=None) as publisher:
        written = await record(Endpoint(publisher.address))
        await publisher.subscribed()
        for number in range(5):
            publisher.publish(payload(str(number)), lost=number in {1, 2})
        await written.has(0, 3, 4)
        assert written.recorder.statistics.missing == 2


async def test_a_restarted_engine_is_recorded_from_its_first_batch_on(record: Record) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        written = await record(endpoint(publisher))
        await publisher.subscribed()
        for number in range(3):
            publisher.publish(payload(f"first life {number}"))
        await written.has(0, 1, 2)
        publisher.forget()
        publisher.publish(payload("second life 0"), sequence=0, lost=True)
        publisher.publish(payload("second life 1"), sequence=1)
        await written.has(0, 1, 2, 0, 1)
        assert written.recorder.statistics.restarts == 1


async def test_each_rank_of_a_pod_is_a_stream_of_its_own(record: Record) -> None:
    async with Publisher(topic=TOPIC) as zero, Publisher(topic=TOPIC) as one:
        written = await record(endpoint(zero), endpoint(one))
        await asyncio.gather(zero.subscribed(), one.subscribed())
        zero.publish(payload(rank=0))
        one.publish(payload(rank=1))
        await until(lambda: len(written.messages) == 2)
        assert sorted(message.pod for message in written.messages) == ["pod", "pod#dp1"]


async def test_it_ends_when_enough_is_written(record: Record) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        written = await record(endpoint(publisher), limit=2)
        await publisher.subscribed()
        for number in range(5):
            publisher.publish(payload(str(number)))
        await asyncio.wait_for(written.recorder.ended, PATIENCE)
        assert written.sequences == [0, 1]
        assert written.recorder.statistics.messages == {"pod": 2}


async def test_it_ends_with_the_error_when_there_is_no_room(record: Record) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        written = await record(endpoint(publisher), fails_at=1)
        await publisher.subscribed()
        for number in range(3):
            publisher.publish(payload(str(number)))
        with pytest.raises(OSError, match="No space left"):
            await asyncio.wait_for(written.recorder.ended, PATIENCE)
        assert written.sequences == [0]


async def test_an_address_that_cannot_be_bound_is_a_problem(record: Record) -> None:
    first = await record(Endpoint("tcp://*:0"))
    assert first.recorder.problems() == []
    taken = await record(Endpoint("ipc:///no/such/folder/socket"))
    assert "cannot bind" in taken.recorder.problems()[0]


async def test_an_engine_that_may_not_connect_is_told_as_the_reason_that_nothing_came(record: Record) -> None:
    with reserved_port() as port:
        written = await record(Endpoint(f"tcp://*:{port}", peers="192.0.2.7"))
        async with Publisher(f"tcp://127.0.0.1:{port}", None, topic=TOPIC, binds=False):
            await until(lambda: "127.0.0.1 (its address is not in peers=)" in "".join(written.recorder.silent()))
