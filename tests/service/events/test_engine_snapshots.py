"""Engines that give snapshots of their caches, as the drafts of vLLM and SGLang describe them, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from service.contract.endpoints import AT_REPLAY_SOCKET, Endpoint
from service.events.arrival import Arrival, read_arrival
from service.events.replay_frames import ReplayError, SnapshotAtOwnSocket
from service.events.sequencer import SNAPSHOT, Notice, Sequencer
from service.simulation.publisher import END, Publisher
from tests.service.events.batches import RANK, TOPIC, batch, becomes_exact, endpoint, held, state, stored
from tests.service.events.conftest import Listen
from tests.waiting import until

CLEARED = batch({"type": "AllBlocksCleared"})


def part(
    due: int, *numbers: int, epoch: str = "first", rank: int = 0, time: float | None = 1.0, **more: Any
) -> dict[str, Any]:
    events = [event for number in numbers for event in msgspec.msgpack.decode(stored(number))[1]]
    return {"epoch": epoch, "replica_rank": rank, "resume_seq": due, "ts": time, "events": events, **more}


class Blocks:
    """A sink that remembers whether it was cleared."""

    holds_blocks = True
    cleared = False

    def apply(self, arrival: Arrival) -> bool:
        return False

    def apply_packed(self, payload: bytes, since: float) -> float | None:
        return None

    def clear(self) -> None:
        self.cleared = True

    def hide(self) -> None: ...

    def unhide(self) -> None: ...

    def forget(self) -> None: ...

    def report(self, notice: Notice, count: int, reason: str) -> None: ...


@asynccontextmanager
async def snapshot_socket(parts: Callable[[], Sequence[dict[str, Any]]]) -> AsyncIterator[str]:
    """The address of a socket that answers each request for a snapshot with these parts."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")

    async def serve() -> None:
        while True:
            identity, empty, request = await socket.recv_multipart()
            assert request == b"snapshot"
            for one in parts():
                await socket.send_multipart((identity, empty, msgspec.msgpack.encode(one)))
            await socket.send_multipart((identity, empty, END))

    serving = asyncio.create_task(serve())
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        socket.close()
        context.term()


async def test_a_replay_that_no_longer_reaches_back_is_replaced_by_a_snapshot_of_the_replay_socket(
    listen: Listen,
) -> None:
    async with Publisher(topic=TOPIC, buffered=2) as publisher:
        for number in range(5):
            publisher.publish(stored(number))
        publisher.snapshot = [CLEARED, stored(0), stored(3)]
        listening = await listen(endpoint(publisher, snapshot=AT_REPLAY_SOCKET))
        await until(lambda: held(listening) == {0, 3})
        await becomes_exact(listening)
        publisher.publish(stored(7))
        await until(lambda: held(listening) == {0, 3, 7})
        assert state(listening) == (True, None)
        assert listening.pool.statistics.snapshots_taken == 1


async def test_an_engine_without_snapshots_answers_with_none_and_its_rank_stays_inexact(listen: Listen) -> None:
    async with Publisher(topic=TOPIC, buffered=2) as publisher:
        for number in range(5):
            publisher.publish(stored(number))
        listening = await listen(endpoint(publisher, snapshot=AT_REPLAY_SOCKET))
        await until(lambda: listening.pool.statistics.replay_failures > 0)
        await until(lambda: held(listening) == {3, 4})
        exact, reason = state(listening)
        assert not exact
        assert reason is not None


async def test_a_late_listener_without_replay_socket_learns_the_blocks_from_a_snapshot_socket(listen: Listen) -> None:
    async with (
        Publisher(topic=TOPIC, replay=None) as publisher,
        snapshot_socket(lambda: [part(publisher.sequence, 1, 2), part(publisher.sequence, 3)]) as snapshot,
    ):
        publisher.publish(stored(1))
        publisher.publish(stored(2))
        listening = await listen(Endpoint(publisher.address, snapshot=snapshot))
        await publisher.subscribed()
        publisher.publish(stored(3))
        await until(lambda: held(listening) == {1, 2, 3})
        await becomes_exact(listening)
        publisher.publish(stored(4))
        await until(lambda: held(listening) == {1, 2, 3, 4})
        assert state(listening) == (True, None)


async def test_lost_batches_are_made_up_for_by_a_snapshot(listen: Listen) -> None:
    async with (
        Publisher(topic=TOPIC, replay=None) as publisher,
        snapshot_socket(lambda: [part(publisher.sequence, 0, 1, 2)]) as snapshot,
    ):
        listening = await listen(Endpoint(publisher.address, snapshot=snapshot))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await until(lambda: held(listening) == {0, 1, 2})
        await becomes_exact(listening)
        assert listening.pool.statistics.batches_lost == 0


async def test_a_snapshot_of_another_rank_is_not_believed(listen: Listen) -> None:
    async with (
        Publisher(topic=TOPIC, replay=None) as publisher,
        snapshot_socket(lambda: [part(publisher.sequence, 9, rank=1)]) as snapshot,
    ):
        publisher.publish(stored(1))
        listening = await listen(Endpoint(publisher.address, snapshot=snapshot))
        await publisher.subscribed()
        publisher.publish(stored(2))
        await until(lambda: listening.pool.statistics.replay_failures > 0)
        assert held(listening) == {2}
        assert not state(listening)[0]


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([], "no snapshot"),
        ([(3, 1.0), (4, 1.0)], "several moments"),
        ([(3, None)], "without a date"),
    ],
)
def test_a_snapshot_that_is_not_whole_changes_nothing(parts: list[tuple[int, float | None]], problem: str) -> None:
    sink = Blocks()
    sequencer = Sequencer(sink, start_replay=lambda: None, has_replay=False, has_snapshot=True)
    sequencer.receive(read_arrival(5, stored(5)))
    assert sequencer.wanted is SNAPSHOT
    read = [read_arrival(due, msgspec.msgpack.encode([date, [], 0])) for due, date in parts]
    with pytest.raises(ValueError, match=problem):
        list(sequencer.restored(read))
    assert not sink.cleared
    sequencer.replay_failed(problem, final=True)
    assert (sequencer.next, sequencer.loss) == (6, "joined at batch 5; what came before is unknown")


def test_a_snapshot_of_two_lives_of_an_engine_is_refused() -> None:
    form = SnapshotAtOwnSocket()
    assert form.read([b"", msgspec.msgpack.encode(part(3))], "tcp://a:1")
    with pytest.raises(ReplayError, match="tcp://a:1 restarted during its snapshot"):
        form.read([b"", msgspec.msgpack.encode(part(3, epoch="second"))], "tcp://a:1")


@pytest.mark.parametrize(
    "frames", [[b""], [b"", b"\xc1"], [b"", msgspec.msgpack.encode({"epoch": "a"})], [b"", b"a", b"b"]]
)
def test_an_answer_that_is_no_snapshot_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ReplayError, match="tcp://a:1 answers"):
        SnapshotAtOwnSocket().read(frames, "tcp://a:1")
