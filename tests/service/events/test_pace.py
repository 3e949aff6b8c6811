"""When the messages of an endpoint are collected, by a clock that the test sets."""

from __future__ import annotations

import pytest

from service.events.pace import Pace


class Turns:
    """Turns that read messages, each some seconds after the last."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = Pace(lambda: self.now)

    def read(self, count: int, *, after: float) -> bool:
        self.now += after
        return self.pace.is_fast(count)


@pytest.mark.parametrize(("count", "after"), [(1, 0.001), (4, 0.01), (31, 0.02)])
def test_the_messages_of_engines_steps_are_read_at_once(count: int, after: float) -> None:
    turns = Turns()
    assert not any(turns.read(count, after=after) for _ in range(1000))


def test_a_burst_is_read_at_once_to_its_last_message() -> None:
    turns = Turns()
    assert not any(turns.read(1, after=0.00001) for _ in range(31))


@pytest.mark.parametrize("rate", [4_000, 60_000])
def test_a_flood_is_collected_all_the_time(rate: int) -> None:
    turns = Turns()
    while not turns.read(1, after=1 / rate):
        assert turns.now < 0.1
    assert all(turns.read(rate // 1000, after=0.001) for _ in range(1000))


def test_what_comes_after_a_flood_is_read_at_once() -> None:
    turns = Turns()
    assert turns.read(10_000, after=0.001)
    assert not turns.read(1, after=0.001)
