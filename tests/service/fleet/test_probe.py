from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.contract.endpoints import Endpoint
from service.contract.pods import parse_pods
from service.fleet import probe as module
from service.fleet.probe import Probe, ProbeFailed, is_in_container
from service.fleet.registry import EngineKind, Pod, ServedModel
from tests.command import free_port


class Engine:
    """An engine that answers some paths with JSON, and others with 404."""

    answers: dict[str, Any]
    pod: Pod

    async def handle(self, request: web.Request) -> web.Response:
        self.authorization = request.headers.get("Authorization")
        if request.path not in self.answers:
            return web.Response(status=404)
        return web.json_response(self.answers[request.path])


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", made.handle)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.pod = Pod(parse_pods(f"http://127.0.0.1:{port},name=a")[0])
    yield made
    await runner.cleanup()


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    async with aiohttp.ClientSession() as session:
        yield Probe(session)


MODELS = {
    "data": [
        {"id": "m", "root": "org/model", "parent": None, "max_model_len": 4096},
        {"id": "sql", "root": "/loras/sql", "parent": "m"},
    ]
}


async def test_vllm_tells_its_models_and_the_event_sources_of_its_ranks(engine: Engine, probe: Probe) -> None:
    source = {"publisher": "zmq", "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5558", "topic": "kv@x@m"}
    other = {**source, "endpoint": "tcp://10.0.0.9:5559", "replay_endpoint": None}
    engine.answers = {
        "/v1/models": MODELS,
        "/kv_event_sources": {"0": source, "1": other, "2": {"publisher": "null"}},
        "/version": {"version": "0.33.0"},
    }
    learned = await probe.learn(engine.pod)
    assert learned.models == (ServedModel("m", "org/model", None, 4096), ServedModel("sql", "/loras/sql", "m"))
    assert learned.sources == (
        Endpoint("tcp://127.0.0.1:5557", pod="a", model="m", replay="tcp://127.0.0.1:5558"),
        Endpoint("tcp://10.0.0.9:5559", pod="a", model="m"),
    )
    assert (learned.ranks, learned.version, set(learned.event_names)) == (2, "0.33.0", {"x"})
    assert learned.engine is EngineKind.VLLM


async def test_sglang_tells_the_event_ports_of_its_ranks(engine: Engine, probe: Probe) -> None:
    events = {"endpoint_host": "*", "endpoint_port_base": 5557, "dp_size": 2, "replay_endpoint_port_base": 6557}
    engine.answers = {"/v1/models": MODELS, "/server_info": {"kv_events": events, "version": "0.5.23"}}
    learned = await probe.learn(engine.pod)
    assert (learned.ranks, learned.version, learned.engine) == (2, "0.5.23", EngineKind.SGLANG)
    assert [str(source) for source in learned.sources] == [
        "tcp://127.0.0.1:5557,pod=a,model=m,replay=tcp://127.0.0.1:6557",
        "tcp://127.0.0.1:5558,pod=a,model=m,replay=tcp://127.0.0.1:6558",
    ]


async def test_an_engine_without_events_is_known_by_its_models(engine: Engine, probe: Probe) -> None:
    engine.answers = {"/v1/models": MODELS, "/server_info": {"kv_events": None}}
    learned = await probe.learn(engine.pod)
    assert (learned.sources, learned.ranks, learned.version) == ((), 1, None)
    engine.answers = {"/v1/models": MODELS, "/version": {"version": "0.10.0"}}
    learned = await probe.learn(engine.pod)
    assert (learned.ranks, learned.version, learned.engine) == (1, "0.10.0", EngineKind.VLLM)
    engine.answers = {"/v1/models": MODELS}
    assert (await probe.learn(engine.pod)).engine is None


async def test_an_engine_that_is_none_is_refused(engine: Engine, probe: Probe) -> None:
    engine.answers = {"/v1/models": ["m"]}
    with pytest.raises(ProbeFailed, match="does not list models"):
        await probe.learn(engine.pod)
    engine.answers = {}
    with pytest.raises(ProbeFailed, match="/v1/models is answered with 404"):
        await probe.learn(engine.pod)
    with pytest.raises(ProbeFailed, match="/health is answered with 404"):
        await probe.check_health(engine.pod)


async def test_the_key_of_an_engine_is_sent(engine: Engine, probe: Probe) -> None:
    engine.answers = {"/health": {}}
    engine.pod.key = "secret"
    await probe.check_health(engine.pod)
    assert engine.authorization == "Bearer secret"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_loopback_without_an_engine_is_explained_inside_a_container(
    probe: Probe, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod(parse_pods(f"http://{host}:{free_port()}")[0])
    monkeypatch.setattr(module, "is_in_container", lambda: True)
    with pytest.raises(ProbeFailed, match=f"Cannot connect .*; inside a container, {host} is the container itself"):
        await probe.check_health(pod)
    monkeypatch.setattr(module, "is_in_container", lambda: False)
    with pytest.raises(ProbeFailed, match="Cannot connect to host"):
        await probe.check_health(pod)


def test_a_container_knows_itself_by_the_name_of_the_machine_around_it(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    assert not is_in_container(hosts)
    hosts.write_text("127.0.0.1 localhost\n")
    assert not is_in_container(hosts)
    hosts.write_text("127.0.0.1 localhost\n10.88.0.1\thost.containers.internal host.docker.internal\n")
    assert is_in_container(hosts)
