"""The state that is shared through the hub of a machine, over real Unix sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from service.replicas.shared.base import describe
from service.replicas.shared.hub import Hub
from service.replicas.shared.state import SharedState
from service.replicas.shared.through_hub import ThroughHub
from tests.clock import Clock
from tests.waiting import until

Join: TypeAlias = Callable[[str], Awaitable[SharedState]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def hub(folder: Path, clock: Clock) -> AsyncIterator[Hub]:
    hub = Hub(clock)
    await hub.start(folder / "hub")
    yield hub
    await hub.close()


@pytest.fixture
async def join(folder: Path, hub: Hub) -> AsyncIterator[Join]:
    """Starts a replica that is connected to the hub."""
    async with AsyncExitStack() as stack:

        async def start(name: str) -> SharedState:
            state = SharedState(ThroughHub(folder / "hub"), name)
            await state.start()
            stack.push_async_callback(state.close)
            await until(lambda: describe(state.status()) == "up")
            return state

        yield start


async def test_a_value_is_known_to_all_also_to_a_replica_that_starts_later(join: Join) -> None:
    first, second = await join("first"), await join("second")
    first.put("pods", "a", b"1")
    await until(lambda: second.values("pods") == {"a": b"1"})
    third = await join("third")
    assert third.values("pods") == {"a": b"1"}
    second.remove("pods", "a")
    await until(lambda: not first.values("pods") and not third.values("pods"))


async def test_what_was_put_before_the_connection_is_told_when_it_is_there(folder: Path, join: Join) -> None:
    early = SharedState(ThroughHub(folder / "hub"), "early")
    early.put("pods", "a", b"1")
    other = await join("other")
    await early.start()
    await until(lambda: other.values("pods") == {"a": b"1"})
    await early.close()


async def test_a_message_reaches_all_others_in_its_order(join: Join) -> None:
    first, second, third = await join("first"), await join("second"), await join("third")
    heard: dict[str, list[bytes]] = {"first": [], "second": [], "third": []}
    for state in (first, second, third):
        state.subscribe("load", lambda sender, message, name=state.name: heard[name].append(message))  # type: ignore[misc]
    sent = [str(number).encode() for number in range(1000)]
    for message in sent:
        first.publish("load", message)
    await until(lambda: heard["second"] == sent and heard["third"] == sent)
    assert heard["first"] == []


async def test_members_come_and_go(join: Join) -> None:
    first, second = await join("first"), await join("second")
    await until(lambda: set(first.members) == {"second"} and set(second.members) == {"first"})
    await second.close()
    await until(lambda: not first.members)


async def test_a_log_is_read_from_its_beginning_and_then_followed(join: Join) -> None:
    writer, reader = await join("writer"), await join("reader")
    writer.append("rank", b"0")
    writer.append("rank", b"1")
    read: list[bytes] = []
    reader.follow("rank", read.append)
    await until(lambda: read == [b"0", b"1"])
    writer.append("rank", b"2")
    await until(lambda: read == [b"0", b"1", b"2"])
    reader.unfollow("rank")
    writer.append("rank", b"3")
    again: list[bytes] = []
    reader.follow("rank", again.append)
    await until(lambda: again == [b"0", b"1", b"2", b"3"])
    assert read == [b"0", b"1", b"2"]


async def test_a_value_that_has_expired_is_not_told_to_a_replica_that_starts(join: Join, clock: Clock) -> None:
    first = await join("first")
    first.put("sessions", "a", b"1", seconds=60.0)
    first.put("sessions", "b", b"1", seconds=600.0)
    second = await join("second")
    assert set(second.values("sessions")) == {"a", "b"}
    clock.now += 100.0
    third = await join("third")
    assert set(third.values("sessions")) == {"b"}


async def test_a_hub_that_is_gone_is_said_and_found_again(folder: Path) -> None:
    hub = Hub()
    await hub.start(folder / "hub")
    first, second = (SharedState(ThroughHub(folder / "hub"), name) for name in ("first", "second"))
    await first.start()
    await second.start()
    await until(lambda: describe(first.status()) == describe(second.status()) == "up")
    await hub.close()
    await until(lambda: str(describe(first.status())).startswith("down since"))
    first.put("pods", "a", b"1")
    assert first.values("pods") == {"a": b"1"}
    (folder / "hub").unlink(missing_ok=True)
    other = Hub()
    await other.start(folder / "hub")
    await until(lambda: second.values("pods") == {"a": b"1"})
    await first.close()
    await second.close()
    await other.close()
