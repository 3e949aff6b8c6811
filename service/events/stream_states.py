"""The states of one event stream, and every transition between them, as data. docs/events.md draws this table.

A stream is in three states at once, one of each region: its connection, its history, its replay. A trigger is a fact;
each region moves as its table says, and a region whose state does not list the trigger stays where it is. Nothing here
does I/O, and nothing outside of this file changes a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias, TypeVar


class Connection(Enum):
    """Does what arrives continue what was applied?"""

    UP = "up"
    DOUBTFUL = "doubtful"
    """A batch dated before the engine's start was dropped; whether rightly, what follows shows."""
    LOST = "lost"
    AWAY = "away"
    """Lost for longer than POD_TTL: the rank's blocks are hidden."""
    BACK = "back"
    """Connected again; the replay socket is asked whether this is the same engine and what was missed."""
    UNVERIFIED = "unverified"
    """Connected again, and no replay can tell: the rank's blocks are hidden until the next batch."""
    FORGOTTEN = "forgotten"


class History(Enum):
    """Is everything applied that the engine published since its start, or since its cache was cleared?"""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Something is missing; a replay from the first batch on may bring it."""
    BEYOND_REPLAY = "beyond replay"
    """Something is missing that the replay socket does not have, or that cannot be read."""


class Replay(Enum):
    """What is the replay socket being asked?"""

    IDLE = "idle"
    CHECKING = "checking"
    """Whether anything follows the last batch applied; nothing is known to be missing."""
    CATCHING_UP = "catching up"
    """The same, and batches are known to follow."""
    FILLING = "filling a gap"
    CONFIRMING = "confirming"
    """The gap is filled; the batch before it is asked for, since a restarted engine has another one there."""
    REBUILDING = "rebuilding"
    """All batches are asked for, to clear the rank and apply them anew."""
    REFILLING = "refilling"
    """The engine restarted: all batches of its present life are asked for."""
    BROKEN_OFF = "broken off"
    """A replay ended in the middle: more may be missing, until the next live batch fits."""


State: TypeAlias = Connection | History | Replay


class Trigger(Enum):
    """What happened to a stream."""

    APPLIED_NEXT = "a live batch was next"
    RESUMED = "a live batch was next, on a connection that nothing verified"
    DROPPED_OLD = "a batch dated before the engine's start was dropped"
    GAVE_UP = "batches were given up as lost"
    UNREADABLE = "a live event could not be read"
    CLEARED = "the engine cleared its cache"
    RESTARTED = "the engine restarted"

    DISCONNECTED = "the connection was lost"
    RECONNECTED = "the connection is back"
    MOVED = "batches come through another connection"
    EXPIRED = "the connection was lost for longer than POD_TTL"
    FORGOTTEN = "the stream is dropped"

    CHECK = "ask for what follows the last batch"
    FILL = "ask for what is missing before a live batch"
    REBUILD = "ask for everything"
    WAITS = "a live batch waits for the replay"
    BROUGHT = "the replay brought a missing batch"
    REBUILT = "the replay began with batch 0, and the rank was cleared"
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
        _T.RESTARTED: Connection.UP,
        _T.UNCONFIRMED: Connection.UNVERIFIED,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.UNVERIFIED: {
        _T.DISCONNECTED: Connection.LOST,
        _T.MOVED: Connection.BACK,
        _T.RESUMED: Connection.UP,
        _T.GAVE_UP: Connection.UP,
        _T.CONFIRMED: Connection.UP,
        _T.RESTARTED: Connection.UP,
        _T.FORGOTTEN: Connection.FORGOTTEN,
    },
    Connection.FORGOTTEN: {},
}

HISTORY: Mapping[History, Mapping[Trigger, History]] = {
    History.COMPLETE: {
        _T.GAVE_UP: History.INCOMPLETE,
        _T.UNREADABLE: History.INCOMPLETE,
        _T.RESUMED: History.INCOMPLETE,
        _T.MISSING_FROM_REPLAY: History.BEYOND_REPLAY,
    },
    History.INCOMPLETE: {
        _T.CLEARED: History.COMPLETE,
        _T.RESTARTED: History.COMPLETE,
        _T.REBUILT: History.COMPLETE,
        _T.TOO_SHORT: History.BEYOND_REPLAY,
        _T.MISSING_FROM_REPLAY: History.BEYOND_REPLAY,
    },
    History.BEYOND_REPLAY: {
        _T.CLEARED: History.COMPLETE,
        _T.RESTARTED: History.COMPLETE,
        _T.REBUILT: History.COMPLETE,
        _T.GAVE_UP: History.INCOMPLETE,
        _T.RESUMED: History.INCOMPLETE,
    },
}

REPLAY: Mapping[Replay, Mapping[Trigger, Replay]] = {
    Replay.IDLE: {
        _T.CHECK: Replay.CHECKING,
        _T.FILL: Replay.FILLING,
        _T.REBUILD: Replay.REBUILDING,
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
    Replay.REFILLING: {
        _T.ENDED: Replay.IDLE,
        _T.FAILED: Replay.BROKEN_OFF,
    },
    Replay.BROKEN_OFF: {
        _T.CHECK: Replay.CATCHING_UP,
        _T.FILL: Replay.FILLING,
        _T.REBUILD: Replay.REBUILDING,
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
    Connection.BACK: _RECONNECTED,
    Connection.UNVERIFIED: _RECONNECTED,
    Replay.CATCHING_UP: _REPLAYING,
    Replay.FILLING: _REPLAYING,
    Replay.CONFIRMING: _REPLAYING,
    Replay.REBUILDING: _REPLAYING,
    Replay.REFILLING: _REPLAYING,
    Replay.BROKEN_OFF: _REPLAYING,
}
"""Why a rank is inexact in a state. A history that is not complete has a reason of its own, with numbers."""

HIDDEN = frozenset({Connection.AWAY, Connection.UNVERIFIED})
"""On entering these the rank's blocks are hidden; on entering UP they count again."""

GONE = frozenset({Connection.LOST, Connection.AWAY, Connection.FORGOTTEN})
"""No connection stands."""

IN_DOUBT = frozenset({Connection.LOST, Connection.AWAY, Connection.BACK, Connection.UNVERIFIED})
"""The connection was lost since the last batch: batch 0 is a restart for certain."""

ASKING = frozenset(Replay) - {Replay.IDLE, Replay.BROKEN_OFF}
"""A replay is in flight; live batches that are not next wait for its end."""


class StreamStates:
    """The three states of a stream, and the reason why its history is not complete."""

    __slots__ = ("connection", "history", "loss", "replay")

    def __init__(self) -> None:
        self.connection = Connection.UP
        self.history = History.COMPLETE
        self.replay = Replay.IDLE
        self.loss: str | None = None

    def on(self, trigger: Trigger, loss: str | None = None) -> Connection | None:
        """Moves all regions; gives the connection's state if that changed. `loss` is the reason of an incomplete
        history: the first one stays until the history is complete again."""
        before = self.connection
        self.connection = _moved(CONNECTION, self.connection, trigger)
        self.history = _moved(HISTORY, self.history, trigger)
        self.replay = _moved(REPLAY, self.replay, trigger)
        self.loss = None if self.history is History.COMPLETE else self.loss or loss
        return self.connection if self.connection is not before else None

    @property
    def inexact_reason(self) -> str | None:
        """Why what was applied may differ from what the engine holds; None if it is known to be equal."""
        return self.loss or REASONS.get(self.replay) or REASONS.get(self.connection)


def _moved(table: Mapping[_S, Mapping[Trigger, _S]], state: _S, trigger: Trigger) -> _S:
    return table[state].get(trigger, state)
