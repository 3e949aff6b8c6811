"""`kvcache restart` of several replicas, with servers that load after their start as a service does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestrator.commands import stop
from orchestrator.console import Console
from orchestrator.errors import Problem
from orchestrator.launch import Launch
from orchestrator.runtimes.base import (
    NAME_LABEL,
    PORT_LABEL,
    READY_LABEL,
    STORE_LABEL,
    Health,
    RuntimeKind,
    Service,
)
from orchestrator.runtimes.deployed import Deployed
from orchestrator.runtimes.process import Processes
from orchestrator.workload import prepare


class Replica:
    """A server that is healthy at once, and ready after `looks` questions."""

    def __init__(self, name: str, looks: float, happened: list[str]) -> None:
        self.name = name
        self.ends_while_it_loads = False
        self.runs = True
        self._looks = looks
        self._asked = 0
        self._happened = happened
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = (200, b"OK") if self.path == "/health" else replica.ready()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    def ready(self) -> tuple[int, bytes]:
        self.runs = not self.ends_while_it_loads
        self._asked += 1
        if self._asked <= self._looks:
            return 503, json.dumps({"ready": False, "reasons": ["2 ranks are being replayed"]}).encode()
        self._happened.append(f"{self.name} is ready")
        return 200, b'{"ready": true}'


class Containers(Processes):
    kind = RuntimeKind.PODMAN

    def __init__(self, replicas: Mapping[str, Replica], happened: list[str]) -> None:
        self._replicas = replicas
        self._happened = happened

    def service(self, name: str) -> Service:
        replica = self._replicas[name]
        labels = {NAME_LABEL: "kv", PORT_LABEL: str(replica.server.server_port), READY_LABEL: "0.001"}
        return Service(self.kind, name, True, "", "running", replica.runs, Health.HEALTHY, labels=labels)

    def find(self, name: str) -> Service | None:
        return self.service(name)

    def stop(self, name: str, grace_seconds: float) -> None:
        self._happened.append(f"{name} stops")

    def resume(self, name: str) -> None:
        self._happened.append(f"{name} starts")

    def confirm_health(self, name: str) -> Health:
        return self.service(name).health


@contextmanager
def deployment(monkeypatch: pytest.MonkeyPatch, *looks: float) -> Iterator[tuple[list[str], list[Replica]]]:
    """What happens to replicas that are ready after so many looks, and the replicas. Several have a Valkey."""
    happened: list[str] = []
    replicas = [Replica(f"kv-{number}", ready_after, happened) for number, ready_after in enumerate(looks, 1)]
    runtime = Containers({one.name: one for one in replicas}, happened)
    labels = {NAME_LABEL: "kv", STORE_LABEL: "kv"}
    store = Service(runtime.kind, "kv-valkey", True, "", "running", True, Health.HEALTHY, labels=labels)
    stores = (store,) if len(replicas) > 1 else ()
    found = Deployed("kv", (*stores, *(runtime.service(one.name) for one in replicas)))

    @contextmanager
    def found_deployed(_: str, __: object) -> Iterator[tuple[Containers, Deployed]]:
        yield runtime, found

    monkeypatch.setattr(stop, "found_deployed", found_deployed)
    threads = [threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01}) for one in replicas]
    for thread in threads:
        thread.start()
    try:
        yield happened, replicas
    finally:
        for replica, thread in zip(replicas, threads, strict=True):
            replica.server.shutdown()
            thread.join()
            replica.server.server_close()


def test_a_replica_stops_only_when_the_one_before_is_ready_and_the_valkey_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with deployment(monkeypatch, 2, 0) as (happened, _):
        stop.restart("kv", None, Console(quiet=True))
    assert happened == [
        *("kv-1 stops", "kv-1 starts", "kv-1 is ready"),
        *("kv-2 stops", "kv-2 starts", "kv-2 is ready"),
    ]


def test_a_replica_that_is_not_ready_in_time_is_told_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stop, "_START_SECONDS", 0.0)
    with deployment(monkeypatch, float("inf"), 0) as (happened, _):
        stop.restart("kv", None, Console(quiet=True))
    assert happened == ["kv-1 stops", "kv-1 starts", "kv-2 stops", "kv-2 starts", "kv-2 is ready"]
    said = capsys.readouterr().err
    assert "kv-1 is not ready yet: 2 ranks are being replayed" in said
    assert "kvcache logs kv-1" in said


def test_the_next_replica_stays_up_if_one_ends_while_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    with deployment(monkeypatch, float("inf"), 0) as (happened, replicas):
        replicas[0].ends_while_it_loads = True
        with pytest.raises(Problem, match="kv-1 does not come up"):
            stop.restart("kv", None, Console(quiet=True))
    assert happened == ["kv-1 stops", "kv-1 starts"]


def test_a_single_service_is_not_waited_for_longer_than_until_it_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    with deployment(monkeypatch, float("inf")) as (happened, _):
        stop.restart("kv", None, Console(quiet=True))
    assert happened == ["kv-1 stops", "kv-1 starts"]


def test_a_container_tells_how_long_it_may_wait_until_it_is_ready() -> None:
    launch = Launch(environment={"READY_REPLAY_TIMEOUT": "5m"})
    labels = prepare(launch, Processes(), dry=True).labels
    assert labels[READY_LABEL] == "5m"
    assert READY_LABEL not in prepare(replace(launch, environment={}), Processes(), dry=True).labels
