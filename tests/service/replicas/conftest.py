from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientSession

from service.contract.settings import Settings
from service.server import listening
from tests.service.replicas.replica import Replica

Run: TypeAlias = Callable[..., AbstractAsyncContextManager[Replica]]


@pytest.fixture
def run(settings: Settings) -> Run:
    """Runs the real service with changed settings, until the context ends."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[Replica]:
        async with (
            listening(replace(settings, **{"state_dir": settings.models_dir.parent / "state", **changes})) as port,
            ClientSession(f"http://127.0.0.1:{port}") as client,
        ):
            yield Replica(client)

    return start
