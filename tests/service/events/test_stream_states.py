"""The transition table, against its drawing, and against what a state machine should be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from service.events.stream_states import (
    ASKING,
    CONNECTION,
    HISTORY,
    REASONS,
    REPLAY,
    Connection,
    History,
    Replay,
    StreamStates,
    Trigger,
)

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "events.md"
TABLES: tuple[Mapping[Enum, Mapping[Trigger, Enum]], ...] = (CONNECTION, HISTORY, REPLAY)  # type: ignore[assignment]


def drawn() -> list[set[tuple[str, str, str]]]:
    diagrams = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return [set(re.findall(r"^ *(\w+) --> (\w+): (.+)$", diagram, re.MULTILINE)) for diagram in diagrams]


def test_the_diagrams_in_the_documentation_are_the_transition_table() -> None:
    tables = [
        {(state.name, after.name, trigger.value) for state, moves in table.items() for trigger, after in moves.items()}
        for table in TABLES
    ]
    assert drawn() == tables


@pytest.mark.parametrize(("table", "states"), list(zip(TABLES, (Connection, History, Replay), strict=True)))
def test_every_state_has_a_row_and_can_be_reached(
    table: Mapping[Enum, Mapping[Trigger, Enum]], states: type[Enum]
) -> None:
    reached, found = set(), {next(iter(states))}
    while found:
        state = found.pop()
        reached.add(state)
        found |= set(table[state].values()) - reached
    assert reached == set(table) == set(states)


def test_every_trigger_moves_something() -> None:
    assert {trigger for table in TABLES for moves in table.values() for trigger in moves} == set(Trigger)


def test_every_replay_in_flight_ends_when_it_is_over_or_fails() -> None:
    for state in ASKING:
        assert REPLAY[state][Trigger.ENDED] is Replay.IDLE
        assert REPLAY[state][Trigger.FAILED] in {Replay.IDLE, Replay.BROKEN_OFF}


def test_a_stream_is_exact_in_the_states_without_a_reason_only() -> None:
    assert StreamStates().inexact_reason is None
    assert set(Connection) - set(REASONS) == {Connection.UP, Connection.FORGOTTEN}
    assert set(Replay) - set(REASONS) == {Replay.IDLE, Replay.CHECKING}


def test_an_incomplete_history_keeps_its_first_reason_until_it_is_complete() -> None:
    states = StreamStates()
    states.on(Trigger.GAVE_UP, "first")
    states.on(Trigger.GAVE_UP, "second")
    assert (states.history, states.inexact_reason) == (History.INCOMPLETE, "first")
    states.on(Trigger.CLEARED)
    assert (states.history, states.inexact_reason) == (History.COMPLETE, None)
