from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import pytest

from service.contract.pods import PodEntry
from service.gateway import connection
from tests.service.conftest import Serve
from tests.service.engines import StartEngine, engine_starter
from tests.service.gateway.routed import Before, Route, Routed
from tests.service.gateway.scripted import Respond, ScriptedEngine, scripted
from tests.waiting import PATIENCE


@pytest.fixture(autouse=True)
def patient_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod counts as one that refuses connections after two seconds, which a busy machine may take."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", PATIENCE)


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts simulated engines and ends them after the test."""
    async with engine_starter() as start:
        yield start


@pytest.fixture
def route(start_engine: StartEngine, serve: Serve) -> Route:
    """Starts `count` engines and a service that forwards to them, and waits until it knows them."""

    async def start(count: int = 2, *, settings: dict[str, object] | None = None, **options: object) -> Routed:
        engines = [await start_engine(seed=number, **options) for number in range(count)]
        pods = tuple(PodEntry(engine.url, engine.pod) for engine in engines)
        client = await serve(**{"pods": pods, "health_interval": 0.2, **(settings or {})})
        routed = Routed(client, engines)
        await routed.until_healthy(count)
        return routed

    return start


@pytest.fixture
async def scripted_engines() -> AsyncIterator[AsyncExitStack]:
    """Ends after the service, whose connections would otherwise be accepted by a server that closes."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def before(scripted_engines: AsyncExitStack, serve: Serve) -> Before:
    """Starts `count` engines that respond as the test says, and a service that forwards to them."""

    async def start(
        respond: Respond, count: int = 1, facts: Mapping[str, object] | None = None, **settings: object
    ) -> tuple[Routed, list[ScriptedEngine]]:
        engines = [await scripted_engines.enter_async_context(scripted(respond, facts=facts)) for _ in range(count)]
        pods = tuple(PodEntry(engine.url, engine.pod) for engine in engines)
        routed = Routed(await serve(**{"pods": pods, "health_interval": 60.0, **settings}), [])
        await routed.until_healthy(count)
        return routed, engines

    return start
