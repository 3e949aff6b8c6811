"""Services under load or going bad, and a Prometheus that scrapes one and evaluates the rules of deploy/grafana/."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any

import yaml
import zmq
import zmq.asyncio
from aiohttp import ClientError, ClientSession

from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from service.simulation.faults import Fault
from service.simulation.publisher import Publisher
from service.simulation.server import EngineOptions, EngineServer, serving
from tests.conftest import BUILTIN, ROOT
from tests.service.engines import MODEL, chat
from tests.service.events.batches import stored
from tests.service.replicas.shared.valkey_server import ValkeyServer, valkey_server
from tests.waiting import PATIENCE, reserved_port

_DEPLOY = ROOT / "deploy"
_SHOUTING = "{% for message in messages %}<{{ message.role | upper }}>{{ message.content }}{% endfor %}"


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, client: ClientSession) -> None:
        self._client = client

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression at this moment; fails with Prometheus' words if it is not one."""
        async with self._client.get("/api/v1/query", params={"query": expression}) as answer:
            body = await answer.json()
        assert body["status"] == "success", f"{expression}: {body['error']}"
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    async def alerts(self) -> dict[str, dict[str, Any]]:
        """Alerts by name, pending or firing."""
        async with self._client.get("/api/v1/alerts") as answer:
            return {alert["labels"]["alertname"]: alert for alert in (await answer.json())["data"]["alerts"]}

    async def traces(self, selector: str) -> set[str]:
        """The ids of the traces of a histogram's exemplars in the last hour."""
        now = time.time()
        asked = {"query": selector, "start": str(now - 3600), "end": str(now + 60)}
        async with self._client.get("/api/v1/query_exemplars", params=asked) as answer:
            series = (await answer.json())["data"]
        return {exemplar["labels"]["trace_id"] for one in series for exemplar in one["exemplars"]}

    async def until_series(self, expressions: Sequence[str]) -> None:
        """Until each expression has a series; fails with those that have none."""
        missing = list(expressions)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    missing = [one for one in missing if not await self.query(one)]
                    if not missing:
                        return
                    await asyncio.sleep(0.2)
        raise AssertionError("no series:\n" + "\n".join(missing))

    async def until_none(self, expressions: Sequence[str]) -> None:
        """Until no expression has a series; fails with those that have one."""
        found: list[list[dict[str, Any]]] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = [series for one in expressions if (series := await self.query(one))]
                    if not found:
                        return
                    await asyncio.sleep(0.2)
        raise AssertionError(f"series: {found}")


@asynccontextmanager
async def _process(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Process]:
    with (folder / f"{Path(arguments[0]).name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *arguments, env={"PATH": os.environ["PATH"], **environment}, stdin=DEVNULL, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
                process.send_signal(signal.SIGCONT)  # of one that a test has stopped
            await process.wait()


async def _until_answered(client: ClientSession, path: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(ClientError):
                async with client.get(path) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)


def _flags() -> list[str]:
    compose = yaml.safe_load((_DEPLOY / "compose.prometheus.yaml").read_text(encoding="utf-8"))
    flags: list[str] = compose["services"]["prometheus"]["command"]
    return flags


@asynccontextmanager
async def scraped(folder: Path, programs: Path, port: int) -> AsyncIterator[Prometheus]:
    """Runs Prometheus with deploy/prometheus.yaml, but every second, and for the service on this port."""
    config = yaml.safe_load((_DEPLOY / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"]["evaluation_interval"] = "1s"
    config["rule_files"] = [str(_DEPLOY / "grafana" / Path(file).name) for file in config["rule_files"]]
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job |= {"scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with reserved_port() as own:
        command = [
            str(programs / "prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{own}",
            *(flag for flag in _flags() if flag.startswith("--enable-feature")),
        ]
        async with _process(folder, command, {}), ClientSession(f"http://127.0.0.1:{own}") as client:
            await _until_answered(client, "/-/ready")
            yield Prometheus(client)


@asynccontextmanager
async def busy_service(folder: Path) -> AsyncIterator[ClientSession]:
    """Runs a service whose pods answer, fail, refuse, break off and count other tokens; yields a client of /metrics."""
    async with AsyncExitStack() as stack:
        engines = await _engines(folder, stack)
        valkey = stack.enter_context(valkey_server())
        await valkey.answers()
        port, metrics = (stack.enter_context(reserved_port()) for _ in range(2))
        (folder / "pods.yaml").write_text(yaml.safe_dump([{"url": engines[0].url}]), encoding="utf-8")
        environment = {
            "CONTAINER_ENV": "true",
            "MODEL_NAME": MODEL,
            "RENDERERS": f"{MODEL}=template",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "METRICS_PORT": str(metrics),
            "ZMQ_ENDPOINT": await stack.enter_async_context(_unreadable_events(folder)),
            "PODS": ",".join(engine.url for engine in engines[1:]),
            "DISCOVERY": f"file:{folder / 'pods.yaml'}",
            "HEALTH_INTERVAL": "0.2",
            "FIRST_BYTE_TIMEOUT": "0.5",
            "STATE_DIR": str(folder / "state"),
            "SNAPSHOT_INTERVAL": "1s",
            "SHARED_STATE": valkey.url,
            # Requests are traced, and nobody takes the traces.
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        }
        await stack.enter_async_context(_process(folder, [sys.executable, "-m", "service", "serve"], environment))
        client = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))
        await _until_answered(client, "/ready")
        load = asyncio.create_task(_load(client, engines))
        stack.push_async_callback(_ended, load)
        yield await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{metrics}"))


class _Publisher(Publisher):
    replays_nonsense = False

    def _reply(self, identity: bytes, topic: bytes, sequence: bytes, payload: bytes) -> None:
        if self.replays_nonsense:
            self._router.send_multipart((identity, b"", b"no reply"))
        else:
            super()._reply(identity, topic, sequence, payload)


@dataclass
class Breakable:
    """A service that is well until one of the methods makes a part of it bad.

    The last engine is not known to the service, and has other tokens; the publisher is a rank without URL.
    """

    folder: Path
    client: ClientSession
    process: Process
    engines: Sequence[EngineServer]
    publisher: _Publisher
    valkey: ValkeyServer
    metrics_port: int
    waiting: list[asyncio.Task[None]] = field(default_factory=list)

    async def fill_queue(self) -> None:
        """Sends more requests than the engines, which hang, may have in flight."""
        for engine in self.engines:
            engine.faults.add(Fault("hang", times=4))

        async def ask() -> None:
            with suppress(ClientError):
                async with self.client.post("/v1/chat/completions", json=chat("Hi", max_tokens=1)) as answer:
                    await answer.read()

        self.waiting = [asyncio.create_task(ask()) for _ in range(len(self.engines) + 2)]

    async def end_waiting(self) -> None:
        for task in self.waiting:
            await _ended(task)

    async def break_replay(self) -> None:
        """Loses a batch, and answers nothing that can be read when it is asked for."""
        self.publisher.replays_nonsense = True
        self.publisher.publish(stored(1), lost=True)
        self.publisher.publish(stored(2))

    async def end_events(self) -> None:
        await self.publisher.close()

    async def add_other_tokens(self) -> None:
        async with self.client.post("/pods", json={"url": self.engines[-1].url}) as answer:
            assert answer.status == 201, await answer.text()

    async def spoil_pods_file(self) -> None:
        (self.folder / "pods.yaml").write_text("[", encoding="utf-8")

    async def spoil_state(self) -> None:
        """Puts a file where the folder of snapshots was, and changes the index."""
        state = self.folder / "state"
        state.rename(self.folder / "moved")
        state.touch()
        self.publisher.publish(stored(3))

    async def kill_engine(self) -> None:
        await self.end_waiting()  # it would wait for its requests
        await self.engines[0].stop()

    async def kill_store(self) -> None:
        self.valkey.kill()

    async def hang(self) -> None:
        """Stops the process, whose port goes on to take connections."""
        self.process.send_signal(signal.SIGSTOP)


@asynccontextmanager
async def breakable_service(folder: Path) -> AsyncIterator[Breakable]:
    async with AsyncExitStack() as stack:
        engines = await _engines(folder, stack)
        valkey = stack.enter_context(valkey_server())
        await valkey.answers()
        publisher = _Publisher(topic=f"kv@without-url@{MODEL}")
        await stack.enter_async_context(publisher)
        port, metrics = (stack.enter_context(reserved_port()) for _ in range(2))
        (folder / "pods.yaml").write_text(yaml.safe_dump([{"url": engines[1].url}]), encoding="utf-8")
        environment = {
            "CONTAINER_ENV": "true",
            "MODEL_NAME": MODEL,
            "RENDERERS": f"{MODEL}=template",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "METRICS_PORT": str(metrics),
            "ZMQ_ENDPOINT": f"{publisher.address},replay={publisher.replay}",
            "PODS": engines[0].url,
            "DISCOVERY": f"file:{folder / 'pods.yaml'}",
            "HEALTH_INTERVAL": "0.2",
            "MAX_IN_FLIGHT_PER_POD": "1",
            "QUEUE_LENGTH": "10",
            "QUEUE_SECONDS": str(10 * PATIENCE),
            "FIRST_BYTE_TIMEOUT": str(10 * PATIENCE),
            "STATE_DIR": str(folder / "state"),
            "SNAPSHOT_INTERVAL": "0.5s",
            "SHARED_STATE": valkey.url,
        }
        command = [sys.executable, "-m", "service", "serve"]
        process = await stack.enter_async_context(_process(folder, command, environment))
        client = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await _until_answered(client, "/ready")
        service = Breakable(folder, client, process, engines, publisher, valkey, metrics)
        stack.push_async_callback(service.end_waiting)
        yield service


async def _engines(folder: Path, stack: AsyncExitStack) -> list[EngineServer]:
    """Three, of which the last has another chat template, and thus other tokens."""
    shutil.copytree(BUILTIN, folder / "models" / "other")
    (folder / "models" / "other" / "chat_template.jinja").write_text(_SHOUTING, encoding="utf-8")
    models = Models(PromptOptions(models_dir=folder / "models"))
    stack.push_async_callback(models.close)
    names = (MODEL, MODEL, "other")
    options = EngineOptions(served_models=[MODEL])
    return [await stack.enter_async_context(serving(options, await models.get(name))) for name in names]


@asynccontextmanager
async def _unreadable_events(folder: Path) -> AsyncIterator[str]:
    """An engine whose messages nobody can read; yields its endpoint."""
    endpoint = f"ipc://{folder}/unreadable"
    with zmq.asyncio.Context() as context, context.socket(zmq.PUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)

        async def publish() -> None:
            for number in count():
                await socket.send_multipart([b"kv@unreadable@none", number.to_bytes(8, "big"), b"\xc1"])
                await asyncio.sleep(0.2)

        task = asyncio.create_task(publish())
        try:
            yield endpoint
        finally:
            await _ended(task)


async def _load(client: ClientSession, engines: Sequence[EngineServer]) -> None:
    """Sends chats of several conversations at once; at times, all engines fail in the same way."""
    faults = cycle(
        (Fault("status", status=503), Fault("status", status=429), Fault("die", after=1), Fault("hang")),
    )

    async def converse(topic: int) -> None:
        for number in count():
            text = f"{topic}: {'Why do caches work? ' * 20}{number % 5}"
            with suppress(ClientError):
                body = chat(text, max_tokens=4, stream=bool(number % 2))
                async with client.post("/v1/chat/completions", json=body) as answer:
                    await answer.read()
            await asyncio.sleep(0.02)

    async def fail() -> None:
        for fault in faults:
            for engine in engines:
                engine.faults.clear()
                engine.faults.add(fault)
            await asyncio.sleep(0.3)

    async with asyncio.TaskGroup() as tasks:
        for work in (fail(), *(converse(topic) for topic in range(6))):
            tasks.create_task(work)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def concrete(expression: str) -> str:
    """A query of the dashboard with values for Grafana's variables."""
    return re.sub(r"\$(job|instance)\b", ".*", expression.replace("$__rate_interval", "30s"))
