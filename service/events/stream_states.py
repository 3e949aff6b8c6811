"""The states and transitions of one event stream, as data. docs/events.md draws this table.

A stream has one state in each of three regions: connection, history, replay. A trigger is a fact; each region moves as
its table says, and stays if its state does not list the trigger. This file does no I/O, and only this file changes
states.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias, TypeVar


class Connection(Enum):
    """Does the current connection continue the applied batches?"""

    UP = "up"
    DOUBTFUL = "doubtful"
    """A batch dated before the engine's start was dropped; the next batches show whether that was right."""
    LOST = "lost"
    AWAY = "away"
    """Lost for longer than POD_TTL: the rank's blocks are hidden."""
    BACK = "back"
    """Connected again; the replay socket is asked whether this is the same engine and which batches were missed."""
    UNVERIFIED = "unverified"
    """Connected again, but no replay can verify the engine: the rank's blocks are hidden until the next batch."""
    RESTORED = "restored"
    """The blocks are from a snapshot, and hidden: the engine was not heard since."""
    FORGOTTEN = "forgotten"


class History(Enum):
    """Is everything applied that the engine published since its start, or since its cache was cleared?"""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Batches are missing; a replay from batch 0 may bring them."""
    BEYOND_REPLAY = "beyond replay"
    """Batches are missing that the replay socket does not have, or that are unreadable."""


class Replay(Enum):
    """What is requested from the replay socket?"""

    IDLE = "idle"
    CHECKING = "checking"
    """Batches after the last one applied; none is known to be missing."""
    CATCHING_UP = "catching up"
    """Batches after the last one applied; some are known to exist."""
    FILLING = "filling a gap"
    CONFIRMING = "confirming"
    """The gap is filled; the batch before it is requested, since a restarted engine has a different one there."""
    REBUILDING = "rebuilding"
    """All batches are requested, to clear the rank and apply them again."""
    REFILLING = "refilling"
    """The rank was cleared: all batches since the engine's start, or a snapshot of the engine, are applied."""
    RESTORING = "restoring"
    """The engine's snapshot is requested, to clear the rank and apply it."""
    BROKEN_OFF = "broken off"
    """A replay failed midway: batches may be missing, until the next live batch fits."""


State: TypeAlias = Connection | History | Replay


class Trigger(Enum):
    """What happened to a stream."""

    APPLIED_NEXT = "a live batch was next"
    RESUMED = "a live batch was next, on a connection that nothing verified"
    ASSUMED = "no replay socket can tell whether this is the engine of the snapshot"
    DROPPED_OLD = "a batch dated before the engine's start was dropped"
    GAVE_UP = "batches were given up as lost"
    UNREADABLE = "a live event could not be read"
    CLEARED = "the engine cleared its cache"
    RESTARTED = "the engine restarted"
    REPEATED = "a live batch repeated one of the snapshot"

    DISCONNECTED = "the connection was lost"
    RECONNECTED = "the connection is back"
    MOVED = "batches come through another connection"
    EXPIRED = "the connection was lost for longer than POD_TTL"
    RESTORED = "the stream was restored from a snapshot"
    FORGOTTEN = "the stream is dropped"

    CHECK = "ask for what follows the last batch"
    FILL = "ask for what is missing before a live batch"
    REBUILD = "ask for everything"
    RESTORE = "ask for the engine's snapshot"
    WAITS = "a live batch waits for the replay"
    BROUGHT = "the replay brought a missing batch"
    REBUILT = "the replay began with batch 0, and the rank was cleared"
    REPLACED = "the engine's snapshot came whole, and the rank was cleared"
    FILLED = "the replay reached the waiting batches"
    TOO_SHORT = "the replay does not reach back to batch 0"
    MISSING_FROM_REPLAY = "the replay left out a batch, or brought one that cannot be read"
    ENDED = "the replay is over"
    FAILED = "the replay socket did not answer"
    CONFIRMED = "the replay repeated a batch that was applied"
    UNCONFIRMED = "no replay can tell whether this is the same engine"


_T = Trigger
_S = TypeVar("_S", Connection, History, Replay)

CONNECTION: Mapping[Connection, Mapping[Trigger, Connection]] = {
    Connection.UP: {
        _T.DISCONNECTED: Connection.LOST,
        _T.MOVED: Connection.BACK,
        _T.DROPPED_OLD: Connection.DOUBTFUL,
        _T.RESTORED: Connection.RESTORED,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.DOUBTFUL: {
        _T.DISCONNECTED: Connection.LOST,
        _T.MOVED: Connection.BACK,
        _T.APPLIED_NEXT: Connection.UP,
        _T.GAVE_UP: Connection.UP,
        _T.CONFIRMED: Connection.UP,
        _T.RESTARTED: Connection.UP,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.LOST: {
        _T.RECONNECTED: Connection.BACK,
        _T.EXPIRED: Connection.AWAY,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.AWAY: {
        _T.RECONNECTED: Connection.BACK,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.BACK: {
        _T.DISCONNECTED: Connection.LOST,
        _T.CONFIRMED: Connection.UP,
        _T.REPEATED: Connection.UP,
        _T.RESTARTED: Connection.UP,
        _T.UNCONFIRMED: Connection.UNVERIFIED,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.UNVERIFIED: {
        _T.DISCONNECTED: Connection.LOST,
        _T.MOVED: Connection.BACK,
        _T.RESUMED: Connection.UP,
        _T.ASSUMED: Connection.UP,
        _T.GAVE_UP: Connection.UP,
        _T.CONFIRMED: Connection.UP,
        _T.REPEATED: Connection.UP,
        _T.RESTARTED: Connection.UP,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.RESTORED: {
        _T.RECONNECTED: Connection.BACK,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.FORGOTTEN: {},
}

HISTORY: Mapping[History, Mapping[Trigger, History]] = {
    History.COMPLETE: {
        _T.GAVE_UP: History.INCOMPLETE,
        _T.UNREADABLE: History.INCOMPLETE,
        _T.RESUMED: History.INCOMPLETE,
        _T.ASSUMED: History.INCOMPLETE,
        _T.MISSING_FROM_REPLAY: History.BEYOND_REPLAY,
    },
    History.INCOMPLETE: {
        _T.CLEARED: History.COMPLETE,
        _T.RESTARTED: History.COMPLETE,
        _T.REBUILT: History.COMPLETE,
        _T.REPLACED: History.COMPLETE,
        _T.TOO_SHORT: History.BEYOND_REPLAY,
        _T.MISSING_FROM_REPLAY: History.BEYOND_REPLAY,
    },
    History.BEYOND_REPLAY: {
        _T.CLEARED: History.COMPLETE,
        _T.RESTARTED: History.COMPLETE,
        _T.REBUILT: History.COMPLETE,
        _T.REPLACED: History.COMPLETE,
        _T.GAVE_UP: History.INCOMPLETE,
        _T.RESUMED: History.INCOMPLETE,
        _T.ASSUMED: History.INCOMPLETE,
    },
}

REPLAY: Mapping[Replay, Mapping[Trigger, Replay]] = {
    Replay.IDLE: {
        _T.CHECK: Replay.CHECKING,
        _T.FILL: Replay.FILLING,
        _T.REBUILD: Replay.REBUILDING,
        _T.RESTORE: Replay.RESTORING,
    },
    Replay.CHECKING: {
        _T.WAITS: Replay.CATCHING_UP,
        _T.BROUGHT: Replay.CATCHING_UP,
        _T.RESTARTED: Replay.REFILLING,
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.IDLE,
    },
    Replay.CATCHING_UP: {
        _T.APPLIED_NEXT: Replay.CHECKING,
        _T.RESTARTED: Replay.REFILLING,
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.BROKEN_OFF,
    },
    Replay.FILLING: {
        _T.FILLED: Replay.CONFIRMING,
        _T.RESTARTED: Replay.REFILLING,
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.IDLE,
    },
    Replay.CONFIRMING: {
        _T.RESTARTED: Replay.REFILLING,
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.IDLE,
    },
    Replay.REBUILDING: {
        _T.REBUILT: Replay.REFILLING,
        _T.BROUGHT: Replay.CATCHING_UP,
        _T.RESTARTED: Replay.REFILLING,
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.IDLE,
    },
    Replay.RESTORING: {
        _T.REPLACED: Replay.REFILLING,
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.IDLE,
    },
    Replay.REFILLING: {
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.BROKEN_OFF,
    },
    Replay.BROKEN_OFF: {
        _T.CHECK: Replay.CATCHING_UP,
        _T.FILL: Replay.FILLING,
        _T.REBUILD: Replay.REBUILDING,
        _T.RESTORE: Replay.RESTORING,
        _T.APPLIED_NEXT: Replay.IDLE,
        _T.GAVE_UP: Replay.IDLE,
    },
}

_RECONNECTED = "the connection was lost, and nothing shows yet whether something was missed"
_REPLAYING = "a replay is under way"
REASONS: Mapping[State, str] = {
    Connection.DOUBTFUL: "a batch dated before the engine's start was left out",
    Connection.LOST: "the connection is lost",
    Connection.AWAY: "the connection is lost",
    Connection.RESTORED: "its blocks are from a snapshot, and the engine was not heard since",
    Connection.BACK: _RECONNECTED,
    Connection.UNVERIFIED: _RECONNECTED,
    Replay.CATCHING_UP: _REPLAYING,
    Replay.FILLING: _REPLAYING,
    Replay.CONFIRMING: _REPLAYING,
    Replay.REBUILDING: _REPLAYING,
    Replay.RESTORING: _REPLAYING,
    Replay.REFILLING: _REPLAYING,
    Replay.BROKEN_OFF: _REPLAYING,
}
"""Why a rank is inexact in a state. An incomplete history has a reason of its own, with numbers."""

HIDDEN = frozenset({Connection.AWAY, Connection.UNVERIFIED, Connection.RESTORED})
"""The rank's blocks are hidden on entering these states, and count again on entering UP."""

GONE = frozenset({Connection.LOST, Connection.AWAY, Connection.RESTORED, Connection.FORGOTTEN})
"""States without a connection."""

IN_DOUBT = frozenset({*GONE, Connection.BACK, Connection.UNVERIFIED} - {Connection.FORGOTTEN})
"""The connection was lost since the last batch: batch 0 certainly means a restart."""

ASKING = frozenset(Replay) - {Replay.IDLE, Replay.BROKEN_OFF}
"""A replay is in flight; live batches that are not next wait for its end."""


class StreamStates:
    """The three states of a stream, and the reason of an incomplete history."""

    __slots__ = ("connection", "history", "loss", "replay")

    def __init__(self) -> None:
        self.connection = Connection.UP
        self.history = History.COMPLETE
        self.replay = Replay.IDLE
        self.loss: str | None = None

    def on(self, trigger: Trigger, loss: str | None = None) -> Connection | None:
        """Moves all regions; returns the connection's state if it changed.

        `loss` is the reason of an incomplete history: the first one stays until the history is complete again.
        """
        before = self.connection
        self.connection = _moved(CONNECTION, self.connection, trigger)
        self.history = _moved(HISTORY, self.history, trigger)
        self.replay = _moved(REPLAY, self.replay, trigger)
        self.loss = None if self.history is History.COMPLETE else self.loss or loss
        return self.connection if self.connection is not before else None

    @property
    def inexact_reason(self) -> str | None:
        """Why the applied blocks may differ from the engine's; None if they are known to be equal."""
        return self.loss or REASONS.get(self.replay) or REASONS.get(self.connection)


def _moved(table: Mapping[_S, Mapping[Trigger, _S]], state: _S, trigger: Trigger) -> _S:
    return table[state].get(trigger, state)
