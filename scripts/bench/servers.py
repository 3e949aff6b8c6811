"""The compared servers, each a separate process: kvcache, and NVIDIA Dynamo's standalone indexer."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from scripts.bench.client import Connection, Refused, connect
from scripts.bench.engines import BLOCK_SIZE, MODEL, Engine
from scripts.bench.usage import Usage

ROOT = Path(__file__).resolve().parents[2]


class Server(Protocol):
    """An index behind HTTP that subscribes to engines; engine n is its pod or instance n."""

    name: str
    usage: Usage

    async def matched(self, tokens: Sequence[int]) -> dict[int, int]:
        """Leading tokens held by each engine."""
        ...

    def question(self, tokens: Sequence[int]) -> bytes:
        """The request for `matched`, as bytes."""
        ...

    async def post(self, path: str, body: bytes) -> Any:
        """Sends one request over a kept connection and decodes the JSON answer."""
        ...

    async def connections(self, count: int) -> Sequence[Connection]:
        """`count` kept connections."""
        ...


class Process:
    """A server process and connections to it."""

    def __init__(self, command: Sequence[str], port: int, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.usage = Usage(self._process.pid)
        self.command = " ".join(command)
        self.port = port
        self._connections: list[Connection] = []

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def answering(self, path: str) -> None:
        """Waits until the path answers 200. Raises RuntimeError if the process ends, or after a minute."""
        for _ in range(1200):
            if self._process.poll() is not None:
                raise RuntimeError(f"ended with exit code {self._process.returncode}: {self.command}")
            try:
                (connection,) = await self.connections(1)
                await connection.get(path)
            except (ConnectionError, Refused):
                await asyncio.sleep(0.05)
            else:
                return
        raise RuntimeError(f"does not answer at {path}: {self.command}")

    async def connections(self, count: int) -> Sequence[Connection]:
        self._connections = [connection for connection in self._connections if not connection.closed]
        while len(self._connections) < count:
            self._connections.append(await connect(self.port))
        return self._connections[:count]

    async def post(self, path: str, body: bytes) -> Any:
        (connection,) = await self.connections(1)
        return msgspec.json.decode(await connection.send(connection.post(path, body)))

    def end(self) -> None:
        """Ends the process and waits for its end."""
        for connection in self._connections:
            connection.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Kvcache(Process):
    """kvcache; engine n is its pod "n"."""

    name = "kvcache"
    model = MODEL

    def question(self, tokens: Sequence[int]) -> bytes:
        body = b'{"model":"%s","prompt":%s}' % (self.model.encode(), msgspec.json.encode(tokens))
        return self._connections[0].post("/score", body)

    async def matched(self, tokens: Sequence[int]) -> dict[int, int]:
        scores = msgspec.json.decode(await self._connections[0].send(self.question(tokens)))
        return {int(pod): round(score * BLOCK_SIZE) for pod, score in (scores or {}).items()}


@asynccontextmanager
async def kvcache(
    engines: Sequence[Engine] = (), model: str = MODEL, name: str = "kvcache", **settings: str
) -> AsyncIterator[Kvcache]:
    """Runs kvcache and waits until it is ready; `settings` are environment variables."""
    port = free_port()
    entries = [f"{engine.address},pod={number},model={model}" for number, engine in enumerate(engines)]
    environment = {
        "CONTAINER_ENV": "true",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "MODEL_NAME": "builtin/demo",
        "ZMQ_ENDPOINT": ",".join(entries) or "tcp://127.0.0.1:*",
        "BLOCK_SIZE": str(BLOCK_SIZE),
        "LOG_LEVEL": "warning",
        **settings,
    }
    server = Kvcache([sys.executable, "-m", "service", "serve"], port, environment)
    server.name, server.model = name, model
    try:
        await server.answering("/ready")
        yield server
    finally:
        server.end()


class Dynamo(Process):
    """NVIDIA Dynamo's indexer; engine n is its instance n."""

    name = "dynamo"

    def question(self, tokens: Sequence[int]) -> bytes:
        body = b'{"model_name":"%s","token_ids":%s}' % (MODEL.encode(), msgspec.json.encode(tokens))
        return self._connections[0].post("/query", body)

    async def matched(self, tokens: Sequence[int]) -> dict[int, int]:
        answer = msgspec.json.decode(await self._connections[0].send(self.question(tokens)))
        return {int(instance): max(ranks.values()) for instance, ranks in answer["scores"].items()}

    async def register(self, number: int, engine: Engine) -> None:
        """Registers an engine under a number."""
        body = {
            "instance_id": number,
            "endpoint": engine.address,
            "model_name": MODEL,
            "block_size": BLOCK_SIZE,
        }
        (connection,) = await self.connections(1)
        await connection.send(connection.post("/register", msgspec.json.encode(body)))


@asynccontextmanager
async def dynamo(engines: Sequence[Engine], threads: int = 1) -> AsyncIterator[Dynamo]:
    """Runs Dynamo's indexer with these engines."""
    port = free_port()
    arguments = ["--port", str(port), "--block-size", str(BLOCK_SIZE), "--threads", str(threads)]
    server = Dynamo([dynamo_python() or sys.executable, "-m", "dynamo.indexer", *arguments], port, {"DYN_LOG": "warn"})
    try:
        await server.answering("/health")
        for number, engine in enumerate(engines):
            await server.register(number, engine)
        yield server
    finally:
        server.end()


def dynamo_python() -> str | None:
    """The Python with Dynamo's indexer: KVCACHE_BENCH_DYNAMO or this one; None if it is not installed."""
    if python := os.environ.get("KVCACHE_BENCH_DYNAMO"):
        return python
    try:
        return sys.executable if importlib.util.find_spec("dynamo.indexer") else None
    except ModuleNotFoundError:
        return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
