from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientSession

from service.app import create_app
from service.events.endpoint import Endpoint
from service.server import listening
from service.settings import Settings

Serve: TypeAlias = Callable[..., Awaitable[ClientSession]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for ipc:// addresses, which may have about a hundred characters."""
    with TemporaryDirectory(prefix="kv") as name:
        yield Path(name)


@pytest.fixture
def settings(folder: Path) -> Settings:
    """A service of the built-in model, on any free port, with a place of its own for engines to connect to."""
    return Settings(
        container_env=True,
        model_name="builtin/demo",
        models_dir=folder / "models",
        zmq_endpoint=(Endpoint(f"ipc://{folder}/events"),),
        http_host="127.0.0.1",
        http_port=0,
    )


@pytest.fixture
async def serve(settings: Settings) -> AsyncIterator[Serve]:
    """Starts the real service, with changed settings if any, and gives a client of it."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> ClientSession:
            port = await stack.enter_async_context(listening(create_app(replace(settings, **changes))))
            return await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))

        yield start
