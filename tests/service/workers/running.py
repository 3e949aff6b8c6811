"""A real supervisor with its workers, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.waiting import PATIENCE, until

_LISTENING = re.compile(r"listening on https?://\S+:(\d+)")


@dataclass
class Machine:
    """The supervisor's process, its port, and the lines of its log so far."""

    process: Process
    port: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes of the workers, the oldest first."""
        children = psutil.Process(self.process.pid).children()
        return sorted(children, key=lambda child: child.create_time())

    def connections(self) -> list[int]:
        """The number of clients of each worker."""
        return [
            sum(
                one.status == psutil.CONN_ESTABLISHED and one.laddr.port == self.port
                for one in worker.net_connections()
            )
            for worker in self.workers
        ]

    def said(self, text: str) -> int:
        """In how many lines of the log a text is."""
        return sum(text in line for line in self.lines)


def environment_of(folder: Path, **changes: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(folder),
        "CONTAINER_ENV": "true",
        "MODEL_NAME": "builtin/demo",
        "ZMQ_ENDPOINT": "",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "WORKERS": "2",
        **changes,
    }


@asynccontextmanager
async def running(environment: dict[str, str]) -> AsyncIterator[Machine]:
    """Workers whose models are loaded; they are stopped at the end."""
    command = (sys.executable, "-m", "service", "serve")
    machine = Machine(await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=STDOUT))
    reading = asyncio.create_task(_read(machine))
    try:
        count = int(environment["WORKERS"].replace("auto", "1"))
        await until(lambda: machine.said("is loaded") >= count or machine.process.returncode is not None)
        if machine.process.returncode is not None:
            pytest.fail("\n".join(machine.lines))
        yield machine
    finally:
        if machine.process.returncode is None:
            machine.process.terminate()
        await asyncio.wait_for(machine.process.wait(), PATIENCE)
        await reading


async def _read(machine: Machine) -> None:
    assert machine.process.stdout is not None
    async for line in machine.process.stdout:
        text = line.decode()
        if listening := _LISTENING.search(text):
            machine.port = int(listening[1])
        machine.lines.append(text)
