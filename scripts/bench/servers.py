"""The servers that are compared: ours, and NVIDIA Dynamo's standalone indexer. Each runs as a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import psutil

from scripts.bench.engines import BLOCK_SIZE, MODEL, Engine

ROOT = Path(__file__).resolve().parents[2]


class Server(Protocol):
    """An index behind HTTP that was told which engines to listen to; engine number n is its pod or instance n."""

    name: str

    async def matched(self, tokens: Sequence[int]) -> dict[int, int]:
        """How many leading tokens each engine holds."""
        ...

    def request(self, tokens: Sequence[int]) -> tuple[str, bytes]:
        """The path and body that ask for that."""
        ...

    async def post(self, path: str, body: bytes) -> Any:
        """One request over a connection that is kept."""
        ...

    def cpu(self) -> float:
        """CPU seconds that the process has used, all its threads."""
        ...

    def memory(self) -> int:
        """Bytes that only this process uses."""
        ...

    async def close(self) -> None: ...


class Process:
    """A server process and one HTTP session to it."""

    def __init__(self, command: Sequence[str], port: int, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._usage = psutil.Process(self._process.pid)
        self._url = f"http://127.0.0.1:{port}"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))

    async def answering(self, path: str) -> None:
        """Waits until the path answers 200; raises RuntimeError when the process ends or a minute has passed."""
        for _ in range(600):
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._url} ended with exit code {self._process.returncode}")
            try:
                async with self._session.get(self._url + path) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{self._url}{path} does not answer")

    async def post(self, path: str, body: bytes) -> Any:
        async with self._session.post(
            self._url + path, data=body, headers={"Content-Type": "application/json"}
        ) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)

    def cpu(self) -> float:
        times = self._usage.cpu_times()
        return times.user + times.system

    def memory(self) -> int:
        return int(self._usage.memory_full_info().uss)

    async def close(self) -> None:
        await self._session.close()
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 10)


class Kvcache(Process):
    """Our service; engine number n is its pod "n"."""

    name = "kvcache"

    @classmethod
    async def start(cls, engines: Sequence[Engine] = (), **settings: str) -> Kvcache:
        """Starts it and waits until it is ready; `settings` are environment variables of the service."""
        port = free_port()
        entries = [f"{engine.address},pod={number},model={MODEL}" for number, engine in enumerate(engines)]
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
        server = cls([sys.executable, "-m", "service", "serve"], port, environment)
        await server.answering("/ready")
        return server

    def request(self, tokens: Sequence[int]) -> tuple[str, bytes]:
        return "/score", b'{"model":"%s","prompt":%s}' % (MODEL.encode(), _json(tokens))

    async def matched(self, tokens: Sequence[int]) -> dict[int, int]:
        scores = await self.post(*self.request(tokens))
        return {int(pod): round(score * BLOCK_SIZE) for pod, score in (scores or {}).items()}


class Dynamo(Process):
    """NVIDIA Dynamo's indexer; engine number n is its instance n."""

    name = "dynamo"

    @classmethod
    async def start(cls, engines: Sequence[Engine], threads: int = 1) -> Dynamo:
        """Starts it and registers the engines."""
        port = free_port()
        arguments = ["--port", str(port), "--block-size", str(BLOCK_SIZE), "--threads", str(threads)]
        server = cls([dynamo_python() or sys.executable, "-m", "dynamo.indexer", *arguments], port, {"DYN_LOG": "warn"})
        await server.answering("/health")
        for number, engine in enumerate(engines):
            body = b'{"instance_id":%d,"endpoint":"%s","model_name":"%s","block_size":%d}'
            await server.post("/register", body % (number, engine.address.encode(), MODEL.encode(), BLOCK_SIZE))
        return server

    def request(self, tokens: Sequence[int]) -> tuple[str, bytes]:
        return "/query", b'{"model_name":"%s","token_ids":%s}' % (MODEL.encode(), _json(tokens))

    async def matched(self, tokens: Sequence[int]) -> dict[int, int]:
        answer = await self.post(*self.request(tokens))
        return {int(instance): max(ranks.values()) for instance, ranks in answer["scores"].items()}


def dynamo_python() -> str | None:
    """The Python that has Dynamo's indexer: KVCACHE_BENCH_DYNAMO, or this one; None without it."""
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


def _json(tokens: Sequence[int]) -> bytes:
    return b"[%s]" % ",".join(map(str, tokens)).encode()
