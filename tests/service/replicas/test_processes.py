"""Real processes: what is on the disk after SIGTERM and after SIGKILL, and what a further process makes of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession

from service.simulation.publisher import Publisher
from tests.service.replicas.replica import Replica, stored, topic
from tests.waiting import PATIENCE, until

_LISTENING = re.compile(rb"listening on (http://\S+)")


@asynccontextmanager
async def process(folder: Path, engine: Publisher, interval: str) -> AsyncIterator[tuple[Process, Replica]]:
    """A service process; it is killed at the end if it still runs."""
    environment = {
        "PATH": os.environ["PATH"],
        "CONTAINER_ENV": "true",
        "MODEL_NAME": "builtin/demo",
        "ZMQ_ENDPOINT": f"{engine.address},replay={engine.replay}",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "STATE_DIR": str(folder / "state"),
        "SNAPSHOT_INTERVAL": interval,
    }
    command = (sys.executable, "-m", "service", "serve")
    running = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=DEVNULL)
    assert running.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            async for line in running.stdout:
                if listening := _LISTENING.search(line):
                    async with ClientSession(listening[1].decode()) as client:
                        yield running, Replica(client)
                    break
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def test_a_stop_by_sigterm_writes_and_the_next_process_knows_all(folder: Path) -> None:
    async with Publisher(topic=topic("a"), buffered=2) as engine:
        async with process(folder, engine, "1h") as (running, replica):
            await engine.subscribed()
            for number in range(5):
                engine.publish(stored(number))
            await replica.becomes("a", last_sequence=4, exact=True)
            running.send_signal(signal.SIGTERM)
            assert await running.wait() == 0
        assert (folder / "state" / "index.snapshot").exists()
        engine.publish(stored(5))
        async with process(folder, engine, "1h") as (_, replica):
            await replica.becomes("a", last_sequence=5, exact=True)
            assert [await replica.holds(number) for number in (0, 5)] == [{"a"}] * 2  # the replay socket lacks block 0


async def test_a_killed_process_continues_from_its_last_snapshot(folder: Path) -> None:
    file = folder / "state" / "index.snapshot"
    async with Publisher(topic=topic("a")) as engine:
        async with process(folder, engine, "50ms") as (running, replica):
            await engine.subscribed()
            for number in range(5):
                engine.publish(stored(number))
            await replica.becomes("a", last_sequence=4, exact=True)
            await until(file.exists)
            running.kill()
            await running.wait()
        engine.publish(stored(20))
        async with process(folder, engine, "1h") as (_, replica):
            await replica.ready()
            await replica.becomes("a", last_sequence=5, exact=True)
            assert [await replica.holds(number) for number in (0, 4, 20)] == [{"a"}] * 3
