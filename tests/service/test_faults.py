"""Faults of the machine below a running service, which is a process of its own here."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from scripts.attack.target import Target, target
from service.contract.endpoints import Endpoint
from service.healthcheck import healthy
from service.simulation.publisher import Publisher
from tests.conftest import ROOT
from tests.service.events.batches import RANK, TOPIC, stored, tokens_of
from tests.tries import THOROUGH
from tests.waiting import PATIENCE, reserved_port

pytestmark = pytest.mark.timeout(240)


class Service:
    """A service in its own process, and a client of it."""

    def __init__(self, process: Target, client: aiohttp.ClientSession) -> None:
        self.process = process
        self._client = client

    async def scores(self, number: int) -> Any:
        """The scores of the prompt of one block; None when nobody has it, or when the service does not answer."""
        body = {"prompt": tokens_of(number), "model": RANK.model}
        try:
            async with self._client.post("/score", json=body, timeout=aiohttp.ClientTimeout(60)) as response:
                assert response.status == 200, await response.text()
                return await response.json()
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def pod(self) -> dict[str, Any]:
        async with self._client.get("/pods") as response:
            return next(one for one in (await response.json())["pods"] if one["pod"] == RANK.pod)

    async def becomes(self, number: int, expected: Any) -> None:
        """Waits until a block has these scores."""
        await until_async(lambda: self.scores(number), lambda found: found == expected)


async def until_async(ask: Callable[[], Any], holds: Callable[[Any], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds(await ask()):  # noqa: ASYNC110 - the other process does not tell
            await asyncio.sleep(0.05)


def settings_for(publisher: Publisher, **more: str) -> dict[str, str]:
    endpoint = Endpoint(publisher.address, replay=publisher.replay)
    return {"ZMQ_ENDPOINT": str(endpoint), "BLOCK_SIZE": "4", **more}


@asynccontextmanager
async def running(**settings: str) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(target(ROOT, **settings))
        client = aiohttp.ClientSession(f"http://127.0.0.1:{process.port}")
        yield Service(process, await stack.enter_async_context(client))


SCORED = {RANK.pod: 1}


async def test_a_service_that_is_killed_in_mid_load_gives_the_same_scores_after_its_restart() -> None:
    async with Publisher(topic=TOPIC) as publisher:
        settings = settings_for(publisher)
        async with running(**settings) as service:
            await publisher.subscribed()
            for number in range(20):
                publisher.publish(stored(number))
            await service.becomes(19, SCORED)
            load = [asyncio.create_task(service.scores(number)) for number in range(50)]
            service.process.process.send_signal(signal.SIGKILL)
            await asyncio.gather(*load)
        async with running(**settings) as again:
            for number in range(20):
                await again.becomes(number, SCORED)
            await until_async(again.pod, lambda pod: pod["exact"])


async def test_a_service_that_was_stopped_for_a_while_catches_up_and_stays_exact() -> None:
    async with Publisher(topic=TOPIC) as publisher, running(**settings_for(publisher)) as service:
        await publisher.subscribed()
        publisher.publish(stored(0))
        await service.becomes(0, SCORED)
        service.process.process.suspend()
        waiting = asyncio.create_task(service.scores(0))
        for number in range(1, 50):
            publisher.publish(stored(number))
        # The time for which the kernel stops it. Above 30 s, heartbeats of its sockets have expired when it goes on.
        await asyncio.sleep(32 if THOROUGH else 3)
        assert not waiting.done()
        service.process.process.resume()
        assert await waiting == SCORED
        await service.becomes(49, SCORED)
        await until_async(service.pod, lambda pod: pod["exact"] and pod["last_sequence"] == 49)


async def test_a_service_without_descriptors_left_answers_again_when_clients_have_gone() -> None:
    async with Publisher(topic=TOPIC) as publisher, running(**settings_for(publisher)) as service:
        await publisher.subscribed()
        publisher.publish(stored(0))
        await service.becomes(0, SCORED)
        service.process.process.rlimit(psutil.RLIMIT_NOFILE, (256, 256))
        held: list[socket.socket] = []
        try:
            for _ in range(400):
                connection = socket.socket()
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    connection.connect(("127.0.0.1", service.process.port))
                held.append(connection)
            await until_async(lambda: asyncio.to_thread(service.process.process.num_fds), lambda count: count >= 250)
            publisher.publish(stored(1))
        finally:
            for connection in held:
                connection.close()
        await service.becomes(1, SCORED)
        assert service.process.alive()


async def test_a_service_whose_log_goes_to_a_full_disk_answers() -> None:
    with open("/dev/full", "wb") as full, reserved_port() as port:  # noqa: ASYNC230, PTH123 - a device
        environment = {
            "PATH": os.environ["PATH"],
            "CONTAINER_ENV": "true",
            "MODEL_NAME": "builtin/demo",
            "ZMQ_ENDPOINT": "tcp://127.0.0.1:*",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "LOG_LEVEL": "debug",
        }
        command = (sys.executable, "-m", "service", "serve")
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=full, stderr=full)
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                service = Service(Target(port, psutil.Process(process.pid)), client)
                await until_async(lambda: asyncio.to_thread(healthy, port), bool)
                for number in range(3):
                    assert await service.scores(number) is None
                assert (await client.post("/score", data=b"{")).status == 400
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


_SHIFTED_CLOCK = """
import os, time
_real, _file = time.time, os.environ["CLOCK_SHIFT"]
def _shifted():
    with open(_file) as shift:
        return _real() + float(shift.read())
time.time = _shifted
"""


@pytest.mark.parametrize("step", [3600, -3600])
async def test_a_clock_that_steps_by_an_hour_hides_no_pod_and_ends_no_request(tmp_path: Path, step: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(_SHIFTED_CLOCK)
    shift = tmp_path / "shift"
    shift.write_text("0")
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    async with Publisher(topic=TOPIC) as publisher:
        settings = settings_for(publisher, CLOCK_SHIFT=str(shift), PYTHONPATH=paths, POD_TTL="5")
        async with running(**settings) as service:
            await publisher.subscribed()
            publisher.publish(stored(0))
            await service.becomes(0, SCORED)
            aside = tmp_path / "next"
            aside.write_text(str(step))
            aside.replace(shift)
            publisher.publish(stored(1))
            await service.becomes(1, SCORED)
            assert await service.scores(0) == SCORED
            pod = await service.pod()
            assert pod["exact"]
            assert 0 <= pod["last_event_age_seconds"] < PATIENCE
            assert await service.scores(0) == SCORED
