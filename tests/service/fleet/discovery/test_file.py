from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from service.contract.discovery import parse_discovery
from service.contract.pods import parse_pods
from service.fleet.discovery.discovery import Discovery
from service.fleet.discovery.file import PodsFile
from service.fleet.registry import Registry
from tests.service.conftest import Serve
from tests.service.engines import chat, engine_starter
from tests.service.fleet.discovery.conftest import Discover
from tests.service.gateway.routed import CHAT, Routed
from tests.waiting import until


class Watched:
    """A file that is watched, and the registry that follows it."""

    def __init__(self, path: Path, registry: Registry, discover: Discover) -> None:
        self.path = path
        self.registry = registry
        self._discovery: Discovery = discover(PodsFile(path, interval=0.005))

    @property
    def problem(self) -> str | None:
        return self._discovery.reports()[0].problem

    def write(self, *pods: str) -> None:
        self.path.write_text(json.dumps(pods))

    def has(self, *names: str) -> Callable[[], bool]:
        return lambda: [pod.name for pod in self.registry] == list(names)


@pytest.fixture
async def watched(tmp_path: Path, registry: Registry, discover: Discover) -> Watched:
    path = tmp_path / "pods.json"
    path.write_text('["http://h:1,name=a", "http://h:2,name=b"]')
    return Watched(path, registry, discover)


async def test_pods_come_go_and_change_with_the_file(watched: Watched) -> None:
    await until(watched.has("a", "b"))
    kept = watched.registry.get("a")
    watched.write("http://h:1,name=a", "http://h:3,name=b", "http://h:4,name=c")
    await until(watched.has("a", "b", "c"))
    assert watched.registry.get("a") is kept
    changed = watched.registry.get("b")
    assert changed is not None and changed.entry.port == 3
    watched.write()
    await until(watched.has())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "must be a list of pods, in YAML or JSON"),
        ("http://h:1", "must be a list of pods"),
        ("pods: [http://h:1]", "must be a list of pods"),
        ("- http://h:1\n- url: nowhere", "is not a valid URL"),
        ("- http://h:1\n- {url: http://h:2, colour: red}", "unknown field `colour`"),
        ('[{"url": "http://h:2", "name": 5}]', "Expected `str | null`"),
        ("- {url: http://h:2, name: 'a,key_file=/etc/passwd'}", "must not be empty or have a comma"),
        ("- &a [*a]\n- \x00", "must be a list of pods"),
        ('["http://h:1", "nowhere"]', "is not a valid URL"),
        ('["http://h:1,name=a", "http://h:2,name=a"]', "two pods have the name a"),
        ('["http://h:1,key_file=/no/such/file"]', "No such file"),
    ],
)
async def test_a_broken_file_is_refused_whole(watched: Watched, content: str, problem: str) -> None:
    await until(watched.has("a", "b"))
    watched.registry.add(parse_pods("http://h:9,name=given")[0])
    watched.path.write_text(content)
    await until(lambda: problem in (watched.problem or ""))
    assert watched.has("a", "b", "given")()
    watched.write("http://h:5,name=d")
    await until(watched.has("given", "d"))
    assert watched.problem is None


async def test_the_file_may_be_yaml_with_texts_and_mappings(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    watched.path.write_text(
        f"""
        # two engines
        - http://h:1,name=a
        - url: http://h:2/v1
          name: b
          events: tcp://h:5557
          replay: tcp://h:5558
          model: m
          key_file: {tmp_path}/key
        """
    )
    await until(watched.has("a", "b"))
    await until(lambda: (pod := watched.registry.get("b")) is not None and pod.key == "secret")
    pod = watched.registry.get("b")
    assert pod is not None
    text = f"http://h:2,name=b,events=tcp://h:5557,replay=tcp://h:5558,model=m,key_file={tmp_path}/key"
    assert (pod.entry,) == parse_pods(text)


async def test_a_file_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, registry: Registry, discover: Discover
) -> None:
    watched = Watched(tmp_path / "pods.json", registry, discover)
    await until(lambda: watched.problem is not None)
    watched.write("http://h:1,name=a")
    await until(watched.has("a"))


async def test_the_service_follows_several_files_and_names_them_in_pods_ready_and_metrics(
    tmp_path: Path, serve: Serve
) -> None:
    async with engine_starter() as start:
        engines = [await start(), await start()]
        first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
        first.write_text(f"- {engines[0].url}")
        discovery = parse_discovery(f"file:{second},file:{first}")
        service = Routed(await serve(pods_file=first, discovery=discovery, zmq_endpoint=()), engines)
        await service.until_pods(lambda pods: list(pods) == [engines[0].pod])
        second.write_text(f"- {engines[0].url}\n- {engines[1].url}")
        await service.until_healthy(2)
        async with service.client.post(CHAT, json=chat("Hello")) as answer:
            assert (answer.status, answer.headers["X-Kvcache-Pod"]) == (200, ANY)
        second.write_text("- nowhere")
        first.write_text("[]")
        await service.until_sources(lambda sources: not sources[0]["pods"] and sources[1]["failing"])
        assert set(await service.pods()) == {engine.pod for engine in engines}
        problem = "'nowhere' is not a valid URL, such as http://10.0.0.7:8000"
        assert await service.sources() == [
            {"source": f"file:{first}", "pods": 0, "failing": False, "problem": None},
            {"source": f"file:{second}", "pods": 2, "failing": True, "problem": problem},
        ]
        metrics = await (await service.client.get("/metrics")).text()
        assert f'kvcache_discovery_pods{{source="file:{second}"}} 2.0' in metrics
        assert f'kvcache_discovery_up{{source="file:{first}"}} 1.0' in metrics
        assert f'kvcache_discovery_up{{source="file:{second}"}} 0.0' in metrics


async def test_requests_are_refused_while_a_source_has_named_no_pod(tmp_path: Path, serve: Serve) -> None:
    path = tmp_path / "pods.yaml"
    client = await serve(pods_file=path, zmq_endpoint=())
    async with client.post(CHAT, json=chat("Hello")) as answer:
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    async with client.get("/ready") as ready:
        assert (ready.status, f"file:{path}" in (await ready.json())["error"]["message"]) == (503, True)
