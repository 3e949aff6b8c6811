"""Puts the batches of one stream in order: applies, queues, requests again, or records as lost.

A `Sequencer` receives facts and acts through a `Sink`. It does no I/O: `wanted` is the number to request from the
replay socket, or that a snapshot of the engine is to be requested, and the caller reports each reply. Its states are in
stream_states.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from time import monotonic
from typing import Final, Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from service.events.arrival import Arrival
from service.events.batch_order import BatchOrder, SequenceLog, SequenceRecord
from service.events.stream_states import (
    ASKING,
    GONE,
    HIDDEN,
    IN_DOUBT,
    Connection,
    History,
    Replay,
    StreamStates,
    Trigger,
)

_ATTEMPTS = 3
_LONGEST_CHECK = 30.0
_FLAPPING_RESTARTS = 5
_FLAPPING_SECONDS = 60.0


class Notice(Enum):
    """Events of a sequencer that are counted and logged."""

    REPEATED = auto()
    GAP = auto()
    LOST = auto()
    RESTARTED = auto()
    INEXACT = auto()
    REPLAY_STARTED = auto()
    REPLAYED = auto()
    REPLAY_FAILED = auto()
    SNAPSHOT_TAKEN = auto()


class Snapshot(Enum):
    """As what is wanted: a snapshot of the engine's blocks, not batches."""

    SNAPSHOT = auto()


SNAPSHOT: Final = Snapshot.SNAPSHOT


class Sink(Protocol):
    """Applies the decisions of a sequencer: an index, or a recording."""

    holds_blocks: bool
    """Whether any block was stored."""

    def apply(self, arrival: Arrival) -> bool:
        """Applies the next batch; True if it cleared everything before it."""
        ...

    def apply_packed(self, payload: bytes, since: float) -> float | None:
        """Applies the next batch without decoding it, and gives its date (Unix seconds).

        None, without any effect, if it is to be decoded, or is dated before `since`.
        """
        ...

    def clear(self) -> None:
        """Drops everything applied, because the engine restarted or all batches are applied again."""
        ...

    def hide(self) -> None:
        """Excludes everything applied from answers until `unhide`."""
        ...

    def unhide(self) -> None: ...

    def forget(self) -> None:
        """Drops everything applied, for good."""
        ...

    def report(self, notice: Notice, count: int, reason: str) -> None: ...


class Timing(msgspec.Struct, frozen=True):
    """Seconds until a quiet stream is checked for lost last batches, and until a lost stream is hidden and dropped."""

    first_check: float = 1.0
    hide_after: float = float("inf")
    forget_after: float = float("inf")
    clock: Callable[[], float] = monotonic


_TIMING = Timing()


class SequencerRecord(msgspec.Struct, array_like=True, gc=False):
    """A snapshot's record of a stream's order, as of its blocks."""

    sequence: SequenceRecord
    loss: str | None
    is_beyond_replay: bool
    """Whether the replay socket lacks what was lost."""
    replay_confirms: bool
    """Whether the replay socket repeated an applied batch before."""


class Sequencer:
    """The order of one stream.

    `start_replay` is called when `wanted` is no longer None; it is None if the engine can be asked for nothing.
    `has_replay` and `has_snapshot` are what it can be asked for. Up to `max_waiting` live batches wait for an answer.
    With `rebuilds`, a replay that begins with batch 0 replaces an incomplete history: `Sink.clear`, then every batch
    again. A snapshot of the engine replaces it, too; it is asked for where batches are missing that no replay brought,
    and where no replay can tell whether the engine is the same.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        start_replay: Callable[[], None] | None = None,
        has_replay: bool = True,
        has_snapshot: bool = False,
        max_waiting: int = 100_000,
        rebuilds: bool = True,
        timing: Timing = _TIMING,
    ) -> None:
        self._sink = sink
        self._start_replay = start_replay
        self._has_replay = has_replay and start_replay is not None
        self._has_snapshot = has_snapshot and start_replay is not None
        self._max_waiting = max_waiting
        self._rebuilds = rebuilds
        self._timing = timing
        self._clock = timing.clock
        self._states = StreamStates()
        self._log = SequenceLog(timing.clock)
        self._waiting: deque[Arrival] = deque()
        self.settled_connection: int | None = None
        """Batches of this connection need no call of `through`."""
        self._flowing = True
        """A live batch that is next is applied at once, without a change of state."""
        self._connection: int | None = None
        self._live_connections: set[int | None] = set()
        self._lost_at = 0.0
        self._doubted_at: int | None = None
        """The number of the next batch when the connection was back; None once the engine is known to be the same."""
        self._restarts: deque[float] = deque(maxlen=_FLAPPING_RESTARTS)
        self._check_after = timing.first_check
        self._check_at = 0.0
        """When to ask the replay socket for lost last batches, which leave no gap. Further batches do not postpone the
        first check: it shows whether the replay socket repeats applied batches.
        """
        self._snapshot_at = 0.0
        """When the engine may be asked for a snapshot again."""
        self._question = _Question(0, 0)
        self._replay_confirms = False
        """The replay socket repeated an applied batch before; from then on an empty answer means a restart."""
        self._ask_again = False
        """The connection came back during a replay, so this replay cannot verify it."""
        self._is_unverified = False
        """The blocks are from a snapshot, and nothing shows yet that the engine is still the same."""
        self._keeps_unverified = True
        self._first_connection = False
        """No connection was lost since the snapshot: no batch can be from a connection before."""

    # Snapshots

    def record(self) -> SequencerRecord | None:
        """The order of all applied batches; None if they may be of several engines, or before the first one."""
        if not self._log.next or len(self._live_connections) > 1 or self._is_flapping() or self._may_be_of_two:
            return None
        is_beyond = self._states.history is History.BEYOND_REPLAY
        return SequencerRecord(self._log.record(), self._states.loss, is_beyond, self._replay_confirms)

    @property
    def _may_be_of_two(self) -> bool:
        """Whether batches were applied since the connection was lost, and nothing shows that the engine is the same."""
        return self._doubted_at not in (None, self._log.next)

    def _confirms(self, arrival: Arrival) -> bool:
        """Whether a batch shows that the engine is the one of before the connection was lost."""
        is_before = self._doubted_at is None or arrival.sequence < self._doubted_at
        return is_before and self._log.knows(arrival)

    def restore(self, record: SequencerRecord, *, keeps_unverified: bool) -> None:
        """Continues a stream whose blocks are those of a snapshot. To be called before anything else.

        If nothing verifies that the engine is the same, the blocks are kept with `keeps_unverified`, and cleared
        without; the rank is inexact in both cases. Kept blocks count soon after the connection if no replay socket can
        verify them.
        """
        self._log.restore(record.sequence)
        self._replay_confirms = record.replay_confirms
        self._is_unverified = self._first_connection = True
        self._keeps_unverified = keeps_unverified
        self._lost_at = self._clock()
        if record.loss is not None:
            self._on(Trigger.MISSING_FROM_REPLAY if record.is_beyond_replay else Trigger.GAVE_UP, record.loss)
        self._on(Trigger.RESTORED)

    @property
    def awaits_engine(self) -> bool:
        """Whether the blocks are from a snapshot, and the engine was not heard yet or is just being verified."""
        connection = self._states.connection
        if connection is Connection.UNVERIFIED:
            return self._may_assume or self.wanted is SNAPSHOT
        return self._first_connection and connection in (Connection.RESTORED, Connection.BACK)

    @property
    def _may_assume(self) -> bool:
        """Whether the blocks of a snapshot are to count although nothing verifies them."""
        return self._is_unverified and self._keeps_unverified and self._start_replay is None

    def _end_unverified(self) -> None:
        """Clears the blocks of a snapshot that nothing verified, if they are not to be kept."""
        if self._is_unverified and not self._keeps_unverified:
            self._sink.clear()
        self._is_unverified = False

    @property
    def next(self) -> int:
        return self._log.next

    @property
    def waiting(self) -> int:
        """The number of live batches that wait for a replay."""
        return len(self._waiting)

    @property
    def connected(self) -> bool:
        return self._states.connection not in GONE

    @property
    def forgotten(self) -> bool:
        return self._states.connection is Connection.FORGOTTEN

    @property
    def loss(self) -> str | None:
        """Why the history is incomplete; None if it is complete."""
        return self._states.loss

    @property
    def inexact_reason(self) -> str | None:
        """Why the applied blocks may differ from the engine's; None if they are known to be equal."""
        if self._states.loss is None:
            if len(self._live_connections) > 1:
                return "several engines publish under its name"
            if self._is_flapping():
                return "it restarts again and again, as if several engines published under its name"
        return self._states.inexact_reason

    def _is_flapping(self) -> bool:
        restarts = self._restarts
        return len(restarts) == _FLAPPING_RESTARTS and self._clock() - restarts[0] < _FLAPPING_SECONDS

    # Live batches

    def receive(self, arrival: Arrival) -> None:
        """Applies a live batch if it is next; otherwise classifies it."""
        self._check_soon()
        log, sent_at = self._log, arrival.batch.timestamp
        if self._flowing and arrival.sequence == log.next and (sent_at is None or sent_at >= log.began_at):
            self._apply(arrival)
        else:
            order = log.classify(arrival, reconnected=self._states.connection in IN_DOUBT)
            self._receive_unusual(arrival, order)

    def receive_packed(self, sequence: int, payload: bytes) -> bool:
        """As `receive`, for a batch that is next and that the sink need not decode; False, without effect, if not."""
        log = self._log
        if not self._flowing or sequence != log.next:
            return False
        sent_at = self._sink.apply_packed(payload, log.began_at)
        if sent_at is None:
            return False
        self._check_soon()
        log.append(sequence, xxh3_64_intdigest(payload), sent_at)
        return True

    def _check_soon(self) -> None:
        self._check_after = self._timing.first_check
        if self._replay_confirms or not self._check_at:
            self._check_at = self._clock() + self._check_after

    def _receive_unusual(self, arrival: Arrival, order: BatchOrder) -> None:
        if self.forgotten:
            return
        asking = self._states.replay in ASKING
        if asking and (order is not BatchOrder.NEXT or self._waiting or self._question.is_snapshot):
            self._wait(arrival)
            return
        match order:
            case BatchOrder.NEXT:
                if self._states.connection is Connection.UNVERIFIED and self._states.replay not in ASKING:
                    since = "the snapshot" if self._first_connection else "the connection was lost"
                    self._end_unverified()
                    self._on(
                        Trigger.RESUMED, f"batch {arrival.sequence} came after {since}: the engine may have restarted"
                    )
                self._apply(arrival)
                self._on(Trigger.APPLIED_NEXT)
            case BatchOrder.REPEATED:
                self._sink.report(Notice.REPEATED, 1, "")
                if self._first_connection and self._confirms(arrival):
                    self._on(Trigger.REPEATED)
            case BatchOrder.OLD:
                self._sink.report(Notice.REPEATED, 1, "")
                self._on(Trigger.DROPPED_OLD)
                self.request_replay()
            case BatchOrder.RESTARTED:
                self._restart(arrival.batch.timestamp)
                self.receive(arrival)
            case BatchOrder.GAP:
                self._sink.report(Notice.GAP, 1, "")
                self._wait(arrival)
                self.request_replay()
                if self._states.replay not in ASKING:  # there is nothing to ask
                    self._waiting.clear()
                    self._give_up(arrival)

    def _wait(self, arrival: Arrival) -> None:
        # A batch that does not fit shows as a gap when the next one is received.
        if len(self._waiting) < self._max_waiting:
            self._waiting.append(arrival)
        self._on(Trigger.WAITS)

    def _give_up(self, arrival: Arrival) -> None:
        """Records the batches before this one as lost, and applies it."""
        self._report_lost(arrival.sequence, Trigger.GAVE_UP)
        self._apply(arrival)

    def _report_lost(self, sequence: int, trigger: Trigger) -> None:
        due = self._log.next
        self._end_unverified()
        self._sink.report(Notice.LOST, sequence - due, "")
        if due:
            self._on(trigger, f"batches {due} to {sequence - 1} were lost")
        else:
            self._on(trigger, f"joined at batch {sequence}; what came before is unknown")

    def _apply(self, arrival: Arrival, *, replayed: bool = False) -> None:
        cleared = self._sink.apply(arrival)
        self._log.append(arrival.sequence, arrival.digest, arrival.batch.timestamp)
        if cleared:
            self._on(Trigger.CLEARED)
        if arrival.batch.unread:
            trigger = Trigger.MISSING_FROM_REPLAY if replayed else Trigger.UNREADABLE
            for reason in arrival.batch.unread:
                self._on(trigger, f"an event could not be read ({reason})")

    def lose_unreadable(self, sequence: int, reason: str) -> None:
        """Handles an unreadable live message with an uncertain place in the order."""
        if sequence >= self._log.next and self._states.replay not in ASKING:  # otherwise the replay brings it
            self._on(Trigger.UNREADABLE, f"a batch could not be read ({reason})")

    def expects(self, sequence: int) -> bool:
        """Whether an unreadable message with this number would be the next one."""
        return sequence == self._log.next and self._states.replay not in ASKING

    def _restart(self, began_at: float | None) -> None:
        self._sink.report(Notice.RESTARTED, 1, "")
        self._restarts.append(self._clock())
        self._sink.clear()
        self._log.restart(began_at)
        self._on(Trigger.RESTARTED)

    # Connections

    def through(self, connection: int | None) -> None:
        """Notes that batches come through this connection, which may be a new one."""
        moved = connection != self._connection and self._log.next > 0
        self._live_connections.add(connection)
        self._connection = connection
        if self._states.connection in GONE:
            self.on_connected()
        elif moved:
            self._on(Trigger.MOVED)
            self._verify()
        self._settle()

    def on_connected(self) -> None:
        """Asks the replay socket for batches missed before the connection was made or restored."""
        self._on(Trigger.RECONNECTED)
        self._verify()

    def _verify(self) -> None:
        self._check_after = self._timing.first_check
        self._check_at = self._clock() + self._check_after
        self._doubted_at = self._log.next if self._doubted_at is None else self._doubted_at
        self._ask_again = self._states.replay in ASKING
        self._waiting.clear()  # from the former connection; the replay of the same engine brings them again
        self.request_replay()
        is_restoring = self._ask_again and self._question.is_snapshot
        if self._log.next == 0 and not is_restoring:
            self._on(Trigger.CONFIRMED)  # without applied batches there is nothing to verify
        elif self._states.replay not in ASKING:
            self._on(Trigger.UNCONFIRMED)  # there is nothing to ask

    def on_disconnected(self, connection: int | None) -> None:
        self._first_connection = False
        self._live_connections.discard(connection)
        if self._connection in (None, connection) and self.connected:
            self._lost_at = self._clock()
            self._on(Trigger.DISCONNECTED)

    def forget(self) -> None:
        """Drops the stream and everything applied from it."""
        self._on(Trigger.FORGOTTEN)
        self._waiting.clear()

    # Time

    def tick(self) -> None:
        """Checks a quiet stream, and hides or drops a disconnected one. Call it about once per second."""
        now = self._clock()
        if self.connected:
            if now > self._check_at:
                self.request_replay()
                if self._states.connection is Connection.UNVERIFIED and self._may_assume:
                    self._on(Trigger.ASSUMED, Trigger.ASSUMED.value)
        elif now - self._lost_at > self._timing.forget_after:
            self.forget()
        elif now - self._lost_at > self._timing.hide_after:
            self._on(Trigger.EXPIRED)

    # Replay

    @property
    def wanted(self) -> int | Snapshot | None:
        """The first number to request from the replay socket, or SNAPSHOT; None when no request is due."""
        if self._states.replay not in ASKING or self.forgotten:
            return None
        return SNAPSHOT if self._states.replay is Replay.RESTORING else self._question.start

    @property
    def _may_ask_for_snapshot(self) -> bool:
        return self._has_snapshot and self._clock() >= self._snapshot_at

    @property
    def _needs_snapshot(self) -> bool:
        """Whether the engine's snapshot may be asked for, and is better than a replay."""
        if not self._may_ask_for_snapshot:
            return False
        if self._states.history is not History.COMPLETE or self._states.connection is Connection.UNVERIFIED:
            return True
        in_doubt = self._log.next > 0 and self._states.connection in IN_DOUBT
        return (in_doubt or bool(self._waiting)) if not self._has_replay else in_doubt and not self._log.is_verifiable

    @property
    def _may_ask_for_replay(self) -> bool:
        """Whether a replay can tell the engine of the applied batches from another one."""
        in_doubt = self._log.next > 0 and self._states.connection in IN_DOUBT
        return self._has_replay and not (in_doubt and not self._log.is_verifiable)

    def request_replay(self) -> None:
        """Asks the engine for what is missing, unless it is being asked."""
        if self._start_replay is None or self.forgotten or self._states.replay in ASKING:
            return
        needs_snapshot = self._needs_snapshot
        if not needs_snapshot and not self._may_ask_for_replay:
            return
        if needs_snapshot:
            self._on(Trigger.RESTORE)
        elif self._rebuilds and self._states.history is History.INCOMPLETE:
            self._on(Trigger.REBUILD)
        elif self._waiting and self._states.connection not in IN_DOUBT:
            self._on(Trigger.FILL)
        else:
            self._on(Trigger.CHECK)
            if self._waiting:
                self._on(Trigger.WAITS)
        self._sink.report(Notice.REPLAY_STARTED, 1, "")
        self._question = _Question(0, self._log.next, gap_known=bool(self._waiting), is_snapshot=needs_snapshot)
        self._ask()
        self._start_replay()

    def _ask(self) -> None:
        """Sets the request that the present state needs."""
        question, due = self._question, self._log.next
        question.replies, question.due = 0, due
        match self._states.replay:
            case Replay.REBUILDING:
                question.start = 0
            case Replay.FILLING:
                question.start = due
            case Replay.CONFIRMING:
                question.start = question.gap_at - 1
            case _:
                # The engine has not restarted if it still has the last batch under its number.
                last = due if self._doubted_at is None else min(due, self._doubted_at)
                question.start = max(last - 1, 0)

    def replayed(self, arrival: Arrival) -> bool:
        """Handles a reply; False when the remaining replies to this request are not needed."""
        question, log = self._question, self._log
        if self.wanted is None:
            return False
        question.replies += 1
        if log.contradicts(arrival):
            return self._replayed_by_another(arrival)
        if self._confirms(arrival):
            self._replay_confirms = question.confirmed = True
            self._is_unverified = False
        if self._states.replay is Replay.CONFIRMING:
            self._finish(answered=True)
            return False
        if question.replies == 1 and question.start == 0:
            self._replayed_from_start(arrival)
        if arrival.sequence > log.next and not self._replay_goes_on_after_hole(arrival):
            return False
        if arrival.sequence >= log.next:
            question.brought = question.progressed = True
            self._on(Trigger.BROUGHT)
            self._sink.report(Notice.REPLAYED, 1, "")
            self._apply(arrival, replayed=True)
            if self._waiting and self._waiting[0].sequence == log.next:
                self.replay_ended(whole=False)
                return False
        return True

    def _replay_goes_on_after_hole(self, arrival: Arrival) -> bool:
        """Handles a batch with missing ones before it; False if something else is asked for."""
        question, due = self._question, self._log.next
        if due > max(question.start, question.hole):
            # ROUTER sockets drop batches for a slow reader; a second request brings them.
            question.hole = due
            self.replay_failed(f"leaves out batch {due}")
            return False
        if self._may_ask_for_snapshot:
            self._on(Trigger.MISSING_FROM_REPLAY, f"the replay leaves out batch {due}")
            self._finish(answered=True)
            return False
        self._report_lost(arrival.sequence, Trigger.MISSING_FROM_REPLAY)
        return True

    def _replayed_by_another(self, arrival: Arrival) -> bool:
        """Handles a replayed batch that differs from the applied one: the engine restarted."""
        if self._question.replies > 1 and self._states.replay is Replay.REFILLING:
            self.replay_failed(f"has two batches {arrival.sequence}")
            return False
        self._restart_by_replay()
        return self.replayed(arrival) if arrival.sequence == 0 else False

    def _restart_by_replay(self) -> None:
        self._restart(None)
        self._question.brought = self._question.progressed = True
        self._ask()

    def _replayed_from_start(self, arrival: Arrival) -> None:
        if arrival.sequence > 0:
            self._on(Trigger.TOO_SHORT)
        elif self._states.replay is Replay.REBUILDING:
            self._sink.clear()
            self._log.rewind()
            self._on(Trigger.REBUILT)

    def replay_ended(self, *, whole: bool = True) -> None:
        """Handles the end of a replay: the engine has no more or, if not `whole`, the next batch is in the queue."""
        question, log = self._question, self._log
        if self.wanted is None:
            return
        heard_since = log.next > question.due or any(one.sequence >= question.due for one in self._waiting)
        nothing = not question.replies and question.start < question.due and not heard_since
        if nothing and self._replay_confirms and self._states.replay is not Replay.CONFIRMING:
            self._restart_by_replay()
            return
        if self._states.replay is Replay.FILLING and question.gap_at:
            self._on(Trigger.FILLED)
            self._ask()
            return
        if whole and self._states.replay is Replay.REBUILDING:
            self._on(Trigger.TOO_SHORT)
        self._finish(answered=True)

    def restored(self, parts: Sequence[Arrival]) -> Iterator[None]:
        """Replaces everything applied by the engine's snapshot, a part per step.

        The number of each part is that of the next live batch. Raises ValueError, before anything was changed, if the
        parts are no snapshot.
        """
        if not parts:
            raise ValueError("gives no snapshot")
        due, taken_at = parts[0].sequence, parts[0].batch.timestamp
        if any(part.sequence != due for part in parts):
            raise ValueError("gives a snapshot of several moments")
        if taken_at is None:
            raise ValueError("gives a snapshot without a date")
        if self.wanted is not SNAPSHOT:
            return
        self._sink.clear()
        self._log.rewind()
        self._on(Trigger.REPLACED)
        unread: set[str] = set()
        for part in parts:
            self._sink.apply(part)
            unread.update(part.batch.unread)
            yield
            if self.wanted is None:
                return
        self._log.resume(due, taken_at)
        for reason in unread:
            self._on(Trigger.MISSING_FROM_REPLAY, f"an event could not be read ({reason})")
        self._question.confirmed = self._question.brought = True
        self._sink.report(Notice.SNAPSHOT_TAKEN, 1, "")
        self._finish(answered=True)

    def replay_failed(self, reason: str, *, final: bool = False) -> None:
        """Handles an unusable answer: retries until the third failure in a row, unless `final`."""
        question = self._question
        if self.wanted is None:
            return
        question.attempts = 1 if question.progressed else question.attempts + 1
        question.progressed = False
        if question.attempts < _ATTEMPTS and not final:
            self._ask()
        else:
            self._sink.report(Notice.REPLAY_FAILED, 1, reason)
            self._finish(answered=False)

    def _finish(self, *, answered: bool) -> None:
        """Ends the replay: applies the queued live batches, and records remaining gaps as lost."""
        question = self._question
        self._on(Trigger.ENDED if answered else Trigger.FAILED)
        self._check_after = self._timing.first_check if question.brought else min(2 * self._check_after, _LONGEST_CHECK)
        self._check_at = self._clock() + self._check_after
        again, self._ask_again = self._ask_again, False
        if not again:
            self._on(Trigger.CONFIRMED if answered and question.confirmed else Trigger.UNCONFIRMED)
        if question.is_snapshot:
            self._snapshot_at = self._clock() + self._check_after
            again |= not answered and self._has_replay
        elif self._needs_snapshot:
            self.request_replay()  # the waiting batches wait for the snapshot
            return
        in_vain = not again and (not answered or (question.gap_known and not question.brought))
        waiting, self._waiting = self._waiting, deque()
        for arrival in waiting:
            order = self._log.classify(arrival, reconnected=self._states.connection in IN_DOUBT)
            if in_vain and order is BatchOrder.GAP and self._states.replay not in ASKING:
                self._give_up(arrival)
            else:
                self.receive(arrival)
        if again or self._needs_snapshot:
            self.request_replay()

    def _on(self, trigger: Trigger, loss: str | None = None) -> None:
        history = self._states.history
        entered = self._states.on(trigger, loss)
        if loss is not None and self._states.history is not history:
            self._sink.report(Notice.INEXACT, 1, loss)
        self._settle()
        if entered is Connection.UP:
            self._is_unverified = False
            self._doubted_at = None
            self._sink.unhide()
        elif entered in HIDDEN:
            self._sink.hide()
        elif entered is Connection.FORGOTTEN:
            self._sink.forget()

    def _settle(self) -> None:
        up = self._states.connection is Connection.UP
        self._flowing = up and self._states.replay in (Replay.IDLE, Replay.CHECKING)
        self.settled_connection = self._connection if up else -1


class _Question(msgspec.Struct):
    """A request to the replay socket, and the progress of its answer."""

    start: int
    gap_at: int
    """The next batch number when the replay was started."""
    gap_known: bool = False
    is_snapshot: bool = False
    due: int = 0
    """The next batch number when this request was made."""
    replies: int = 0
    confirmed: bool = False
    """A reply repeated an applied batch."""
    brought: bool = False
    progressed: bool = False
    """A reply brought a batch since the last failure."""
    attempts: int = 0
    hole: int = -1
    """Number of a batch missing inside a replay, which was requested again once."""
