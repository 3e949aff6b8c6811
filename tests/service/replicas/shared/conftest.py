from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.service.replicas.shared.valkey_server import ValkeyServer, valkey_server


@pytest.fixture
async def valkey() -> AsyncIterator[ValkeyServer]:
    with valkey_server() as server:
        await server.answers()
        yield server
