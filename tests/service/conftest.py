from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientSession

from scripts.truth import Truth
from service.contract.endpoints import Endpoint
from service.contract.settings import Settings
from service.events.recording import Recording
from service.server import listening
from tests.service.playback import playing
from tests.waiting import PATIENCE

Serve: TypeAlias = Callable[..., Awaitable[ClientSession]]


def url_of(client: ClientSession) -> str:
    """Where the service of a client listens."""
    return str(client._base_url).rstrip("/")


def port_of(client: ClientSession) -> int:
    """The port that the service of a client listens on."""
    base = client._base_url
    assert base is not None and base.port is not None
    return base.port


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
        drain_timeout=0.04,  # a stop waits for a quarter of it, after which no client of a test comes
    )


@pytest.fixture
async def serve(settings: Settings) -> AsyncIterator[Serve]:
    """Starts the real service, with changed settings if any, and gives a client of it."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> ClientSession:
            port = await stack.enter_async_context(listening(replace(settings, **changes)))
            return await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))

        yield start


@dataclass(frozen=True)
class Recorded:
    """A service that has heard all of a recording, and what the engine itself would have answered."""

    client: ClientSession
    truth: Truth


Play: TypeAlias = Callable[..., Awaitable[Recorded]]


@pytest.fixture
async def play(serve: Serve, recordings: Path) -> AsyncIterator[Play]:
    """Plays a recording to a real service through real sockets."""
    async with AsyncExitStack() as stack:

        async def start(name: str, **changes: Any) -> Recorded:
            truth = Truth.read(recordings / f"{name}.truth.json")
            with (recordings / f"{name}.jsonl").open("rb") as lines:
                playback = await stack.enter_async_context(playing(Recording(lines)))
            client = await serve(zmq_endpoint=playback.endpoints, **changes)
            await playback.play()
            await _heard(client, truth)
            return Recorded(client, truth)

        yield start


async def _heard(client: ClientSession, truth: Truth) -> None:
    expected = {(rank.pod, rank.number): sequence for rank, sequence in truth.last_sequence.items()}
    async with asyncio.timeout(PATIENCE):
        while True:
            pods = (await (await client.get("/pods")).json())["pods"]
            if {(pod["pod"], pod["rank"]): pod["last_sequence"] for pod in pods} == expected:
                return
            await asyncio.sleep(0.005)
