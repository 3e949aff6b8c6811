from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.service.engines import StartEngine, engine_starter


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts simulated engines and ends them after the test."""
    async with engine_starter() as start:
        yield start
