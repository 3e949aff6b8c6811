"""Replicas: processes of the service that can be stopped, killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import aiohttp

from scripts.bench.continuity.fleet import BLOCK_SIZE, MODEL
from scripts.bench.servers import ROOT, free_port

_PATIENCE = 180.0
_COMMAND = (sys.executable, "-m", "service", "serve")


@dataclass
class Replica:
    """One process, at one port, with a folder of its own for its state and its log."""

    port: int
    folder: Path
    environment: dict[str, str]
    session: aiohttp.ClientSession
    command: Sequence[str] = _COMMAND
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env={**os.environ, **self.environment}, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def stop(self) -> None:
        """As a rolling update does: SIGTERM, and the end of the process."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self.process.wait)

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"{self.url}{path}") as response:
            return response.status, await response.json()

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        async with self.session.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    async def held(self, tokens: array[int]) -> dict[str, int]:
        """The prefix match of each pod in tokens."""
        body = {"model": MODEL, "token_ids": tokens.tolist(), "block_size": BLOCK_SIZE}
        async with self.session.post(f"{self.url}/query", json=body) as response:
            response.raise_for_status()
            return {pod: ranks["0"] for pod, ranks in (await response.json())["scores"].items()}

    async def exact(self) -> set[str]:
        """The pods whose rank is exact."""
        return {rank["pod"] for rank in (await self.get("/pods"))[1]["pods"] if rank["exact"]}

    def pods_down(self) -> int:
        """How often it called a pod down: where the machine is too busy to answer health checks, turns go elsewhere."""
        return sum(" is down: " in line and "health_checks" in line for line in self.log.splitlines())

    async def ready(self) -> float:
        return await self._answers("/ready")

    async def listens(self) -> float:
        return await self._answers("/health")

    async def _answers(self, path: str) -> float:
        """Seconds until a path answers 200."""
        began = monotonic()
        while monotonic() - began < _PATIENCE:
            with suppress(aiohttp.ClientError, ValueError):
                async with self.session.get(f"{self.url}{path}") as response:
                    if response.status == 200:
                        return monotonic() - began
            if self.process is not None and self.process.poll() is not None:
                break
            await asyncio.sleep(0.005)
        raise RuntimeError(f"{self.url}{path} does not answer:\n{self.log[-2000:]}")

    async def holds(self, blocks: int) -> None:
        """Waits until the index has as many blocks."""

        async def has() -> bool:
            return bool(sum(rank["blocks"]["gpu"] for rank in (await self.get("/pods"))[1]["pods"]) >= blocks)

        await until(has, f"the index does not get {blocks} blocks")

    async def knows_replicas(self, count: int) -> None:
        async def has() -> bool:
            return await self.metric("kvcache_replicas") == count

        await until(has, f"there are not {count} replicas")

    async def forwards_to(self, count: int) -> None:
        """Waits until as many pods are healthy."""

        async def has() -> bool:
            fleet = (await self.get("/pods"))[1]["fleet"]
            return sum(bool(pod["healthy"]) for pod in fleet) == count

        await until(has, f"there are not {count} healthy pods")


async def until(condition: Callable[[], Awaitable[bool]], problem: str, seconds: float = _PATIENCE) -> float:
    """Seconds until a condition holds."""
    began = monotonic()
    while monotonic() - began < seconds:
        if await condition():
            return monotonic() - began
        await asyncio.sleep(0.02)
    raise TimeoutError(problem)


@dataclass
class Replicas:
    """Makes replicas; they end with the case."""

    folder: Path
    session: aiohttp.ClientSession
    all: list[Replica] = field(default_factory=list)

    def make(self, *, command: Sequence[str] = _COMMAND, **environment: str) -> Replica:
        """A replica that is not started yet; `environment` are its settings."""
        folder = self.folder / str(len(self.all))
        folder.mkdir()
        port = free_port()
        settings = {
            "CONTAINER_ENV": "true",
            "MODEL_NAME": MODEL,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "ZMQ_ENDPOINT": "",
            "API_KEYS": "",
            "STATE_DIR": str(folder / "state"),
            **environment,
        }
        replica = Replica(port, folder, settings, self.session, command)
        self.all.append(replica)
        return replica


@asynccontextmanager
async def replicas() -> AsyncIterator[Replicas]:
    with TemporaryDirectory(prefix="kvcache-continuity-") as folder:
        async with aiohttp.ClientSession() as session:
            made = Replicas(Path(folder), session)
            try:
                yield made
            finally:
                for one in made.all:
                    one.kill()
                if "KVCACHE_BENCH_LOG" in os.environ:
                    for one in made.all:
                        print(f"--- {one.url}\n{one.log}", file=sys.stderr)
