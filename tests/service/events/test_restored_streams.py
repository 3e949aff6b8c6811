"""Ranks that continue from a snapshot: what verifies their engine, and what is kept until it is heard."""

from __future__ import annotations

import pytest

from service.events.arrival import Arrival, read_arrival
from service.events.sequencer import Notice, Sequencer, SequencerRecord, Timing
from service.events.stream_records import StreamRecord
from service.index.base import Rank
from service.index.snapshot_records import RankRecord
from service.simulation.publisher import Publisher
from tests.service.events.batches import RANK, TOPIC, becomes_exact, endpoint, held, stored
from tests.service.events.conftest import Listen, Listening
from tests.waiting import until


class Blocks:
    """A sink that remembers whether its blocks are hidden, and whether they are there."""

    holds_blocks = True
    hidden = cleared = False

    def apply(self, arrival: Arrival) -> bool:
        return False

    def apply_packed(self, payload: bytes, since: float) -> float | None:
        return None

    def clear(self) -> None:
        self.cleared = True

    def hide(self) -> None:
        self.hidden = True

    def unhide(self) -> None:
        self.hidden = False

    def forget(self) -> None: ...

    def report(self, notice: Notice, count: int, reason: str) -> None: ...


BATCHES = [read_arrival(number, stored(number, time=float(number))) for number in range(10)]


def recorded(batches: int) -> SequencerRecord:
    before = Sequencer(Blocks())
    for arrival in BATCHES[:batches]:
        before.receive(arrival)
    record = before.record()
    assert record is not None
    return record


def restored(batches: int, *, keeps_unverified: bool = True) -> tuple[Sequencer, Blocks]:
    sink = Blocks()
    sequencer = Sequencer(sink)
    sequencer.restore(recorded(batches), keeps_unverified=keeps_unverified)
    return sequencer, sink


def test_a_rank_with_batches_of_perhaps_two_engines_is_left_out_of_snapshots_until_its_engine_is_known() -> None:
    sequencer = Sequencer(Blocks(), start_replay=lambda: None)
    sequencer.receive(BATCHES[0])
    sequencer.on_disconnected(None)
    assert sequencer.record() is not None
    sequencer.on_connected()
    assert sequencer.record() is not None
    sequencer.receive(BATCHES[1])
    assert sequencer.record() is None
    sequencer.on_disconnected(None)
    assert sequencer.record() is None
    sequencer.on_connected()
    sequencer.replayed(BATCHES[1])
    sequencer.replay_ended()
    assert sequencer.record() is None, "that batch may be of another engine than the first one"
    assert sequencer.wanted == 0
    sequencer.replayed(BATCHES[0])
    sequencer.replay_ended()
    assert sequencer.record() is not None


def test_a_live_batch_that_the_snapshot_has_verifies_an_engine_without_replay_socket() -> None:
    sequencer, sink = restored(3)
    assert sink.hidden
    sequencer.on_connected()
    assert sink.hidden
    sequencer.receive(BATCHES[2])
    assert (sink.hidden, sequencer.inexact_reason) == (False, None)
    sequencer.receive(BATCHES[3])
    assert (sequencer.next, sequencer.inexact_reason) == (4, None)


def test_a_repeated_batch_verifies_nothing_once_a_connection_was_lost() -> None:
    sequencer, sink = restored(3)
    sequencer.on_connected()
    sequencer.on_disconnected(None)
    sequencer.on_connected()
    sequencer.receive(BATCHES[2])
    assert sink.hidden


@pytest.mark.parametrize("missed", [0, 2])
@pytest.mark.parametrize("keeps", [True, False])
def test_blocks_that_nothing_verifies_are_kept_or_dropped_as_told(missed: int, keeps: bool) -> None:
    sequencer, sink = restored(3, keeps_unverified=keeps)
    sequencer.on_connected()
    sequencer.receive(BATCHES[3 + missed])
    assert (sink.hidden, sink.cleared) == (False, not keeps)
    assert sequencer.inexact_reason is not None


def test_a_stream_before_its_first_batch_has_no_record() -> None:
    assert Sequencer(Blocks()).record() is None


def test_a_stream_of_two_engines_has_no_record() -> None:
    sequencer = Sequencer(Blocks())
    for connection in (1, 2):
        sequencer.through(connection)
        sequencer.receive(BATCHES[connection - 1])
    assert sequencer.record() is None


def test_lost_batches_are_still_lost_after_a_restart() -> None:
    before = Sequencer(Blocks())
    for number in (0, 1, 5):
        before.receive(BATCHES[number])
    record = before.record()
    assert record is not None
    sequencer = Sequencer(Blocks())
    sequencer.restore(record, keeps_unverified=True)
    sequencer.on_connected()
    sequencer.receive(BATCHES[5])
    assert sequencer.inexact_reason == before.inexact_reason == "batches 2 to 4 were lost"


async def hand_over(source: Listening, target: Listening) -> None:
    """Gives all ranks of one pool to another that waits."""
    async for stream, first, blocks in source.pool.captures():
        restorer = target.index.restorer(stream.rank, first)
        for record in blocks:
            restorer.add(record)
        restorer.finish()
        target.pool.restore(stream)


async def test_a_rank_whose_engine_is_not_heard_is_dropped_in_time(listen: Listen) -> None:
    now = 0.0
    async with Publisher(topic=TOPIC) as publisher:
        source = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(1))
        await source.heard({RANK: 0})
        target = await listen(waits=True, pod_ttl=1.0, clock=lambda: now)
        await hand_over(source, target)
        target.pool.begin()
        assert target.states()[RANK].exact is False
        assert held(target) == set()
        assert target.index.blocks == 1
        now = 100.0
        await until(lambda: not target.states())
        assert target.index.blocks == 0


async def test_a_restored_rank_is_captured_again_before_its_engine_is_heard(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        source = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(1))
        await source.heard({RANK: 0})
        middle = await listen(waits=True)
        await hand_over(source, middle)
        target = await listen(endpoint(publisher), waits=True)
        await hand_over(middle, target)
        assert target.pool.awaited() == 1
        target.pool.begin()
        await becomes_exact(target)
        assert held(target) == {1}
        assert target.pool.awaited() == 0


async def test_batches_wait_while_a_large_rank_is_read_and_blocks_belong_to_the_number(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(1))
        await listening.heard({RANK: 0})
        (stream,) = listening.pool._streams
        assert stream.sink.hold()
        publisher.publish(stored(2))
        await listening.heard({RANK: 1})
        assert held(listening) == {1}
        assert listening.states()[RANK].inexact_reason == "batches wait until its blocks are read for a snapshot"
        stream.sink.release()
        await until(lambda: held(listening) == {1, 2})
        await becomes_exact(listening)


async def test_every_capture_of_a_changing_rank_has_the_blocks_of_its_number(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        for number in range(1, 60):
            publisher.publish(stored(number))
            found: list[tuple[StreamRecord, RankRecord, int]] = [
                (stream, first, sum(len(getattr(one, "keys", b"")) // 8 for one in blocks))
                async for stream, first, blocks in listening.pool.captures()
            ]
            ((stream, _, blocks),) = found
            assert blocks == stream.order.sequence.next
        assert Rank(stream.pod, stream.model, stream.number) == RANK


def test_timing_of_a_restored_stream_starts_with_the_restart() -> None:
    now = 1000.0
    sequencer = Sequencer(Blocks(), timing=Timing(forget_after=10.0, clock=lambda: now))
    sequencer.restore(recorded(3), keeps_unverified=True)
    sequencer.tick()
    assert not sequencer.forgotten
    now = 1011.0
    sequencer.tick()
    assert sequencer.forgotten
