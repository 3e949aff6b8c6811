"""The attacked service, in its own process on loopback, and its memory."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_LISTENING = re.compile(rb"listening on https?://\S+:(\d+)")


@dataclass(frozen=True)
class Target:
    port: int
    process: psutil.Process

    def rss(self) -> int:
        """Resident memory in bytes, of the process and its children."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in processes)

    def peak_rss(self) -> int:
        """The highest resident memory of the process alone, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def alive(self) -> bool:
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE


@asynccontextmanager
async def target(checkout: Path, **settings: str) -> AsyncIterator[Target]:
    """Starts the service of a checkout with its default limits and the built-in model."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(checkout),
        "CONTAINER_ENV": "true",
        "MODEL_NAME": "builtin/demo",
        "ZMQ_ENDPOINT": "tcp://127.0.0.1:*",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve", env=environment, cwd=checkout, stdout=PIPE
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    reading: asyncio.Task[bytes] | None = None
    try:
        while not (found := _LISTENING.search(line := await process.stdout.readline())):
            if not line:
                raise RuntimeError("the service ended before it listened")
        reading = asyncio.create_task(process.stdout.read())
        yield Target(int(found[1]), psutil.Process(process.pid))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if reading:
            await reading
