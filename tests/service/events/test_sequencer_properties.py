"""A stream over a network that loses, repeats and delays, from an engine that restarts, against a simple model.

The model is the list of batches that the engine published in its present life. What the sequencer calls exact must be
a beginning of that list, and once the network is quiet and a whole replay was possible, it must be all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.events.arrival import Arrival, read_arrival
from service.events.sequencer import SNAPSHOT, Notice, Sequencer, SequencerRecord, Timing

NOTHING = msgspec.msgpack.encode([0.0, [], 0])
"""The only part of a snapshot of an engine that holds nothing."""


class Applied:
    """A sink that keeps what was applied."""

    holds_blocks = True

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.hidden = False

    def apply(self, arrival: Arrival) -> bool:
        cleared = b"Cleared" in arrival.payload
        if cleared:
            self.payloads.clear()
        if arrival.payload != NOTHING:
            self.payloads.append(arrival.payload)
        return cleared

    def apply_packed(self, payload: bytes, since: float) -> float | None:
        date = msgspec.msgpack.decode(payload)[0]
        if date < since or b"Cleared" in payload:
            return None
        self.payloads.append(payload)
        return float(date)

    def clear(self) -> None:
        self.payloads.clear()

    def hide(self) -> None:
        self.hidden = True

    def unhide(self) -> None:
        self.hidden = False

    def forget(self) -> None:
        self.payloads.clear()

    def report(self, notice: Notice, count: int, reason: str) -> None: ...


class Engine:
    """Publishes numbered batches, and keeps the last ones for replays."""

    def __init__(self, buffered: int) -> None:
        self.buffered = buffered
        self.lives = 0
        self.time = 1000.0
        self.published: list[bytes] = []

    def restart(self) -> None:
        self.lives += 1
        self.published = []

    def publish(self, *, clears: bool = False) -> Arrival:
        self.time += 1.0
        number = len(self.published)
        events = [{"type": "AllBlocksCleared", "life": self.lives}] if clears else []
        payload = msgspec.msgpack.encode([self.time, events, 0])
        self.published.append(payload)
        return read_arrival(number, payload)

    def replay(self, start: int) -> list[Arrival]:
        numbered = list(enumerate(self.published))[-self.buffered :] if self.buffered else []
        return [read_arrival(number, payload) for number, payload in numbered if number >= start]

    def snapshot(self) -> list[Arrival]:
        """What it holds, as of its next batch."""
        due = len(self.published)
        arrivals = [read_arrival(due, payload) for payload in self.held or [NOTHING]]
        dated = msgspec.structs.replace(arrivals[0].batch, timestamp=self.time)
        return [msgspec.structs.replace(arrivals[0], batch=dated), *arrivals[1:]]

    @property
    def held(self) -> list[bytes]:
        """What was published since the cache was cleared last."""
        clears = [number for number, payload in enumerate(self.published) if b"Cleared" in payload]
        return self.published[clears[-1] :] if clears else self.published


class Network(RuleBasedStateMachine):
    """One stream; `replays` is whether the engine has a replay socket, `gives_snapshots` whether it gives those."""

    replays = True
    gives_snapshots = False

    @initialize(buffered=st.sampled_from([0, 3, 1000]), packed=st.booleans())
    def begin(self, buffered: int, packed: bool) -> None:
        self.now = 0.0
        self.packed = packed
        """Whether batches are applied without decoding them, where that is possible."""
        self.engine = Engine(buffered)
        self.sink = Applied()
        self.replies: list[Arrival] | None = None
        """What is still to come of the replay that is under way."""
        self.asked_for_snapshot: list[Arrival] | None = None
        self.restoring: Iterator[None] | None = None
        self.delayed: list[Arrival] = []
        self.recent: list[Arrival] = []
        self.connected = True
        self.sequencer = self.new_sequencer()
        self.snapshot: tuple[SequencerRecord, list[bytes]] | None = None

    def new_sequencer(self) -> Sequencer:
        return Sequencer(
            self.sink,
            start_replay=(lambda: None) if self.replays or self.gives_snapshots else None,
            has_replay=self.replays,
            has_snapshot=self.gives_snapshots,
            timing=Timing(hide_after=10.0, clock=lambda: self.now),
        )

    def deliver(self, arrival: Arrival) -> None:
        self.now += 0.01
        self.recent = [*self.recent[-5:], arrival]
        if not (self.packed and self.sequencer.receive_packed(arrival.sequence, arrival.payload)):
            self.sequencer.receive(arrival)

    @rule(number=st.integers(1, 4), clears=st.booleans())
    def the_engine_publishes(self, number: int, clears: bool) -> None:
        for position in range(number):
            arrival = self.engine.publish(clears=clears and position == 0)
            if self.connected:
                self.deliver(arrival)

    @rule(number=st.integers(1, 4))
    def batches_are_lost(self, number: int) -> None:
        for _ in range(number):
            self.engine.publish()

    @rule()
    @precondition(lambda self: self.connected)
    def a_batch_is_delayed(self) -> None:
        self.delayed.append(self.engine.publish())

    @rule()
    @precondition(lambda self: self.connected and self.delayed)
    def a_delayed_batch_arrives(self) -> None:
        self.deliver(self.delayed.pop(0))

    @rule(back=st.integers(1, 5))
    @precondition(lambda self: self.connected and self.recent)
    def a_batch_is_repeated(self, back: int) -> None:
        self.deliver(self.recent[-min(back, len(self.recent))])

    @rule()
    @precondition(lambda self: self.connected)
    def the_connection_is_lost(self) -> None:
        self.connected = False
        self.delayed.clear()
        self.sequencer.on_disconnected(None)

    @rule(restarts=st.booleans(), number=st.integers(0, 6))
    @precondition(lambda self: not self.connected)
    def the_connection_is_back(self, restarts: bool, number: int) -> None:
        if restarts:
            self.engine.restart()
            self.recent.clear()
        for _ in range(number):
            self.engine.publish()
        self.connected = True
        self.sequencer.on_connected()

    @rule()
    def a_snapshot_is_taken(self) -> None:
        record = self.sequencer.record()
        if record is not None:
            self.snapshot = record, list(self.sink.payloads)

    @rule(keeps_unverified=st.booleans())
    @precondition(lambda self: self.snapshot is not None)
    def the_service_restarts_with_the_snapshot(self, keeps_unverified: bool) -> None:
        assert self.snapshot is not None
        record, payloads = self.snapshot
        self.connected, self.replies = False, None
        self.asked_for_snapshot = self.restoring = None
        self.delayed.clear()
        self.sink = Applied()
        self.sink.payloads = list(payloads)
        self.sequencer = self.new_sequencer()
        self.sequencer.restore(record, keeps_unverified=keeps_unverified)
        assert self.sink.hidden

    @rule(seconds=st.sampled_from([0.5, 2.0, 15.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.sequencer.tick()

    @rule(number=st.integers(1, 10))
    @precondition(lambda self: self.sequencer.wanted is not None)
    def the_replay_goes_on(self, number: int) -> None:
        for _ in range(number):
            self.replay_once()

    @rule(final=st.booleans())
    @precondition(lambda self: self.sequencer.wanted is not None)
    def the_replay_fails(self, final: bool) -> None:
        if self.restoring is not None:
            return  # a snapshot that came whole cannot fail any more
        self.replies = self.asked_for_snapshot = None
        self.sequencer.replay_failed("it broke", final=final)

    def replay_all(self) -> None:
        for _ in range(1_000):
            if self.sequencer.wanted is None:
                return
            self.replay_once()
        raise AssertionError("the replay does not end")

    def replay_once(self) -> None:
        wanted = self.sequencer.wanted
        if self.restoring is not None:
            if next(self.restoring, SNAPSHOT) is SNAPSHOT:
                self.restoring = None
            return
        if wanted is SNAPSHOT:
            self.replies = None
            self.answer_with_snapshot()
            return
        self.asked_for_snapshot = None
        if wanted is None:
            self.replies = None
            return
        if self.replies is None:
            self.replies = self.engine.replay(wanted)
        if not self.replies:
            self.replies = None
            self.sequencer.replay_ended()
        elif not self.sequencer.replayed(self.replies.pop(0)):
            self.replies = None

    def answer_with_snapshot(self) -> None:
        """First it is taken, and later it has come, while the stream goes on."""
        if self.asked_for_snapshot is None:
            self.asked_for_snapshot = self.engine.snapshot()
        else:
            self.restoring = self.sequencer.restored(self.asked_for_snapshot)
            self.asked_for_snapshot = None

    @invariant()
    def what_is_exact_is_what_the_engine_published(self) -> None:
        if self.sequencer.inexact_reason is None:
            applied, held = self.sink.payloads, self.engine.held
            published = self.engine.published
            assert not self.sink.hidden
            # The last batches may be lost, which nothing shows yet: then it is what the engine held before.
            before = published[: self.sequencer.next]
            clears = [number for number, payload in enumerate(before) if b"Cleared" in payload]
            assert applied == (before[clears[-1] :] if clears else before), (applied, held)

    def teardown(self) -> None:
        """In the end all is exact: a replay that reaches back makes it so, or else the engine clears its cache."""
        if not hasattr(self, "engine"):
            return
        if not self.connected:
            self.connected = True
            self.sequencer.on_connected()
        reaches_back = self.gives_snapshots or (self.replays and self.engine.buffered >= len(self.engine.published) + 5)
        for number in range(5):
            self.deliver(self.engine.publish(clears=number == 2 and not reaches_back))
            self.replay_all()
            self.now += 100.0
            self.sequencer.tick()
            self.replay_all()
        assert self.sequencer.inexact_reason is None
        assert self.sink.payloads == self.engine.held


class WithoutReplay(Network):
    replays = False


class WithSnapshots(Network):
    gives_snapshots = True


class WithSnapshotsOnly(WithoutReplay):
    gives_snapshots = True


@pytest.mark.parametrize(
    "machine",
    [Network, WithoutReplay, WithSnapshots, WithSnapshotsOnly],
    ids=["with a replay socket", "without one", "with snapshots, too", "with snapshots only"],
)
def test_what_is_called_exact_is_what_the_engine_published(machine: type[Network]) -> None:
    case = machine.TestCase
    case.settings = settings(stateful_step_count=50, phases=(Phase.generate, Phase.shrink))
    case().runTest()
