"""Two whole vLLM servers behind the gateway, found by their URLs alone."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from tests.real_vllm.chats import CHAT, WITH_TOOLS, ask, converse, gateway_to, wrong
from tests.real_vllm.conftest import Models
from tests.real_vllm.servers import MODEL, Engine, Kvcache, until

OPTIONS = ("--num-gpu-blocks-override", "300", "--max-num-batched-tokens", "512", *WITH_TOOLS)
_RUNNING = re.compile(r"^vllm:num_requests_running\{[^}]*\} (\S+)$", re.MULTILINE)


class Fleet(NamedTuple):
    """Two engines, and a gateway that was given their URLs and nothing else."""

    engines: tuple[Engine, Engine]
    kvcache: Kvcache

    def engine(self, pod: str) -> Engine:
        return next(engine for engine in self.engines if engine.pod == pod)


@pytest.fixture(scope="module")
def fleet(vllm: Path, models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("gateway")
    engines = (
        Engine(vllm, models("granite"), OPTIONS, folder / "0.log"),
        Engine(vllm, models("granite"), OPTIONS, folder / "1.log"),
    )
    try:
        for engine in engines:
            engine.start()
        for engine in engines:
            engine.wait()
        with gateway_to(*engines, models_dir=folder / "models") as kvcache:
            yield Fleet(engines, kvcache)
    finally:
        for engine in engines:
            engine.stop()


def healthy(fleet: Fleet) -> set[str]:
    return {name for name, pod in fleet.kvcache.fleet().items() if pod["healthy"]}


@contextmanager
def drained(fleet: Fleet, engine: Engine) -> Iterator[None]:
    """Keeps new requests from an engine."""
    url = f"{fleet.kvcache.url}/pods/{engine.pod}"
    assert requests.patch(url, json={"draining": True}, timeout=60).ok
    yield
    assert requests.patch(url, json={"draining": False}, timeout=60).ok


def running(engine: Engine) -> float:
    """vllm:num_requests_running of an engine."""
    found = _RUNNING.search(requests.get(f"http://{engine.pod}/metrics", timeout=60).text)
    assert found is not None
    return float(found[1])


def test_all_is_learned_from_the_urls(fleet: Fleet) -> None:
    until(lambda: healthy(fleet) == {engine.pod for engine in fleet.engines})
    for engine in fleet.engines:
        pod = fleet.kvcache.fleet()[engine.pod]
        assert (pod["models"], pod["ranks"]) == ([MODEL], 1)
        # vLLM 0.32 drops `reasoning_content` of messages; chats without it are rendered here.
        assert set(fleet.kvcache.parity(engine)["differing"]) <= {"reasoning content"}
    endpoints = requests.get(f"{fleet.kvcache.url}/endpoints", timeout=60).json()
    assert all(engine.endpoints[0].address in json.dumps(endpoints) for engine in fleet.engines)
    models = requests.get(f"{fleet.kvcache.url}/v1/models", timeout=60).json()
    assert [model["id"] for model in models["data"]] == [MODEL]


def test_every_prediction_for_chats_with_tools_is_what_the_engine_reuses(fleet: Fleet) -> None:
    answers = converse(fleet.kvcache, fleet.engines, 40, 1)
    for engine in fleet.engines:  # each answers alone, whatever the other holds
        with drained(fleet, engine):
            answers += converse(fleet.kvcache, fleet.engines, 10, 4)
    assert wrong(answers) == []
    assert {answer.pod for answer in answers} == {engine.pod for engine in fleet.engines}
    assert sum(answer.reused for answer in answers) > sum(answer.tokens for answer in answers) / 2


def test_a_client_that_leaves_ends_its_request_in_the_engine(fleet: Fleet) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 1900}
    for stream in (True, False):
        with requests.Session() as session:
            sent = {**body, "ignore_eos": True, "stream": stream}
            if stream:
                answer = session.post(f"{fleet.kvcache.url}{CHAT}", json=sent, stream=True, timeout=300)
                with closing(answer):
                    lines = answer.iter_lines()
                    assert next(lines).startswith(b"data: ")
                    engine = fleet.engine(answer.headers["X-Kvcache-Pod"])
                    assert running(engine) == 1
            else:
                with pytest.raises(requests.Timeout):
                    session.post(f"{fleet.kvcache.url}{CHAT}", json=sent, timeout=0.5)
        until(lambda: not any(map(running, fleet.engines)))
        assert not any(pod["in_flight"] for pod in fleet.kvcache.fleet().values())


def test_a_pod_is_drained_removed_and_added_while_requests_run(fleet: Fleet) -> None:
    leaving, staying = fleet.engines
    pods: list[str] = []
    ended = threading.Event()

    def load(number: int) -> None:
        while not ended.is_set():
            messages = [{"role": "user", "content": f"{number} {len(pods)}"}]
            answer = ask(fleet.kvcache, messages, stream=number % 2 == 0, max_tokens=20)
            assert answer.predicted is not None
            pods.append(answer.pod)

    def come(count: int) -> bool:
        """Whether so many requests have been answered, none of them with an error."""
        for client in clients:
            if client.done():
                client.result()
        return len(pods) > count

    threads = ThreadPoolExecutor(4)
    clients = [threads.submit(load, number) for number in range(4)]
    try:
        until(lambda: come(0) and leaving.pod in pods)
        url = f"{fleet.kvcache.url}/pods"
        assert requests.patch(f"{url}/{leaving.pod}", json={"draining": True}, timeout=60).ok
        until(lambda: fleet.kvcache.fleet()[leaving.pod]["in_flight"] == 0)
        seen = len(pods)
        until(lambda: come(seen + 20))
        # Those that were in flight may be told after they ended.
        assert set(pods[seen + len(clients) :]) == {staying.pod}
        assert requests.delete(f"{url}/{leaving.pod}", timeout=60).ok
        assert set(fleet.kvcache.fleet()) == {staying.pod}
        assert requests.post(url, json={"url": f"http://{leaving.pod}"}, timeout=60).status_code == 201
        seen = len(pods)
        until(lambda: come(seen) and leaving.pod in pods[seen:])
    finally:
        ended.set()
        threads.shutdown()
    assert come(0)
    expected = converse(fleet.kvcache, fleet.engines, 15, 2)
    assert wrong(expected) == []


def test_an_engine_that_is_killed_and_started_again_is_used_again(fleet: Fleet) -> None:
    killed, other = fleet.engines
    killed.kill(signal.SIGKILL)
    answers = [ask(fleet.kvcache, [{"role": "user", "content": f"Hello {number}"}]) for number in range(20)]
    assert {answer.pod for answer in answers} == {other.pod}
    until(lambda: healthy(fleet) == {other.pod})
    killed.start()
    killed.wait()
    until(lambda: healthy(fleet) == {killed.pod, other.pod})
    with drained(fleet, other):
        answers = converse(fleet.kvcache, fleet.engines, 25, 3)
    assert wrong(answers) == []
    assert {answer.pod for answer in answers} == {killed.pod}
