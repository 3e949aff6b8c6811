from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import msgspec
import pytest

from service.replicas.shared.state import MEMBER_SECONDS, SharedState
from service.replicas.shared.tables import Tables
from tests.service.replicas.shared.joined import Between, Joined

Join: TypeAlias = Callable[..., Awaitable[tuple[SharedState, Joined]]]


@pytest.fixture
def between() -> Between:
    return Between()


@pytest.fixture
async def join(between: Between) -> AsyncIterator[Join]:
    """Starts a replica that is joined to the others."""
    async with AsyncExitStack() as stack:

        async def start(name: str, tables: Tables | None = None) -> tuple[SharedState, Joined]:
            carrier = between.carrier()
            state = SharedState(carrier, name, tables=tables)
            await state.start()
            stack.push_async_callback(state.close)
            return state, carrier

        yield start


async def test_a_value_is_known_to_all_replicas_also_to_one_that_starts_later(join: Join) -> None:
    first, _ = await join("first")
    second, _ = await join("second")
    first.put("pods", "a", b"1")
    third, _ = await join("third")
    assert [one.values("pods") for one in (first, second, third)] == [{"a": b"1"}] * 3


async def test_the_last_write_of_a_value_wins_on_all_replicas(join: Join) -> None:
    first, _ = await join("first", Tables(wall=lambda: 2e9))
    second, _ = await join("second", Tables(wall=lambda: 1e9))
    first.put("pods", "a", b"1")
    second.put("pods", "a", b"2")
    assert first.values("pods") == second.values("pods") == {"a": b"2"}


async def test_what_was_written_and_removed_during_a_cut_is_told_after_it(join: Join) -> None:
    first, carrier = await join("first")
    second, _ = await join("second")
    first.put("pods", "a", b"1")
    carrier.is_cut = True
    first.put("pods", "b", b"2")
    second.remove("pods", "a")
    second.put("pods", "c", b"3")
    carrier.mend()
    assert first.values("pods") == second.values("pods") == {"b": b"2", "c": b"3"}


async def test_values_come_back_to_a_store_that_lost_them(join: Join, between: Between) -> None:
    first, carrier = await join("first")
    first.put("pods", "a", b"1")
    between.kept.clear()
    carrier.mend()
    second, _ = await join("second")
    assert second.values("pods") == {"a": b"1"}


def test_an_expiring_value_ends_after_its_seconds_by_the_clock_of_each_replica() -> None:
    now = 0.0
    here, there = Tables(lambda: now, lambda: 1e9), Tables(lambda: now, lambda: 2e9)
    told: list[tuple[str, bytes | None]] = []
    there.watch("replicas", lambda key, value: told.append((key, value)))
    record = here.write("replicas", "first", b"me", "first", 4.0)
    now = 1.0
    assert there.merge(record)
    now = 4.5
    here.expire()
    there.expire()
    assert not here.values("replicas")
    assert there.values("replicas") == {"first": b"me"}
    now = 5.0
    there.expire()
    assert told == [("first", b"me"), ("first", None)]


async def test_replicas_see_each_other_come_and_go(join: Join) -> None:
    first, _ = await join("first")
    told: list[tuple[str, bool]] = []
    first.watch_members(lambda name, is_there: told.append((name, is_there)))
    second, _ = await join("second")
    assert list(first.members) == ["second"]
    assert list(second.members) == ["first"]
    await second.close()
    assert told == [("second", True), ("second", False)]
    assert not first.members


def test_a_replica_is_missed_for_a_few_seconds() -> None:
    assert MEMBER_SECONDS < 5


async def test_messages_come_to_the_others_in_order_and_not_to_their_sender(join: Join) -> None:
    first, _ = await join("first")
    second, _ = await join("second")
    told: list[tuple[str, str, bytes]] = []
    for state in (first, second):
        state.subscribe("load", lambda sender, message, name=state.name: told.append((name, sender, message)))  # type: ignore[misc]
    first.publish("load", b"1")
    first.publish("load", b"2")
    first.publish("other", b"3")
    assert told == [("second", "first", b"1"), ("second", "first", b"2")]


async def test_a_log_is_read_from_its_beginning(join: Join) -> None:
    first, _ = await join("first")
    second, _ = await join("second")
    first.append("events of a", b"1")
    read: list[bytes] = []
    second.follow("events of a", read.append)
    first.append("events of a", b"2")
    second.unfollow("events of a")
    first.append("events of a", b"3")
    assert read == [b"1", b"2"]


@pytest.mark.parametrize("frame", [b"", b"\xc1", msgspec.msgpack.encode([2, "other", "load", b"x"])])
async def test_frames_of_other_versions_and_damaged_ones_are_left_out(join: Join, frame: bytes) -> None:
    state, _ = await join("first")
    told: list[bytes] = []
    state.subscribe("load", lambda sender, message: told.append(message))
    state.received(frame)
    assert not told
    assert state.malformed == 1


async def test_a_replica_that_tells_what_is_outdated_is_told_what_came_after_it(join: Join, between: Between) -> None:
    first, carrier = await join("first")
    second, _ = await join("second")
    first.put("pods", "a", b"1")
    carrier.is_cut = True
    second.remove("pods", "a")
    between.kept.clear()  # the store comes back without its memory, and the first replica before the second
    carrier.mend()
    third, _ = await join("third")
    assert first.values("pods") == second.values("pods") == third.values("pods") == {}
