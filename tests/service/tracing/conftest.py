from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.service.gateway.conftest import before, route, scripted_engines, start_engine
from tests.service.tracing.collector import Collector, collecting

__all__ = ["before", "route", "scripted_engines", "start_engine"]


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector, to which spans are sent at once."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    async with collecting() as collector:
        yield collector
