from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import pytest

from service.fleet.discovery.base import Source
from service.fleet.discovery.discovery import Discovery
from service.fleet.registry import Registry

Discover: TypeAlias = Callable[..., Discovery]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def discover(registry: Registry) -> AsyncIterator[Discover]:
    """Keeps the registry equal to what sources name, until the test ends."""
    async with AsyncExitStack() as stack:

        def start(*sources: Source) -> Discovery:
            discovery = Discovery(registry, sources)
            discovery.start()
            stack.push_async_callback(discovery.close)
            return discovery

        yield start
