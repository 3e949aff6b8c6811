"""One replica that uses a Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.contract.shared_state import parse_shared_state
from service.replicas.shared.base import CarrierStatus
from service.replicas.shared.state import SharedState
from service.replicas.shared.valkey import ValkeyCarrier
from tests.waiting import until


def status(state: SharedState) -> CarrierStatus:
    found = state.status()
    assert found is not None
    return found


def is_up(state: SharedState) -> bool:
    return status(state).down_since is None


@asynccontextmanager
async def replica(name: str, url: str, prefix: str = "fleet", *, waits: bool = True) -> AsyncIterator[SharedState]:
    """Waits until it is connected, unless that is not to be."""
    address = parse_shared_state(url)
    assert address is not None
    state = SharedState(ValkeyCarrier(address, prefix), name)
    await state.start()
    try:
        if waits:
            await until(lambda: is_up(state))
        yield state
    finally:
        await state.close()


async def share(first: SharedState, second: SharedState) -> None:
    """Waits until a value and a log of one replica have come to the other."""
    told: list[bytes] = []
    second.follow("log", told.append)
    first.put("pods", "a", b"1")
    first.append("log", b"1")
    await until(lambda: second.values("pods") == {"a": b"1"} and told == [b"1"])
