"""Engines in containers that a service finds by itself: simulated ones, in the project's own image."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.command import wait_until
from tests.e2e.containers import RuntimeCommand, Up
from tests.e2e.http import get, post

_SIMULATE = ("simulate", "--pods", "1", "--host", "0.0.0.0", "--port", "8000", "--topic", "")
CHAT = {"model": "builtin/demo", "messages": [{"role": "user", "content": "When does the ferry leave?"}]}


class Fleet:
    """Containers of engines, and what the service says of them; those of other tests do not count."""

    def __init__(self, runtime: RuntimeCommand, up: Up) -> None:
        self.up = up
        self._runtime = runtime
        self.network = f"{up.name}-network"
        self._names: list[str] = []

    def engine(self, *options: str) -> str:
        name = f"{self.up.name}-engine-{len(self._names)}"
        self._names.append(name)
        labels = ("--label", "kvcache.pod=true", "--label", "kvcache.port=8000")
        command = ("--entrypoint", "python", self._runtime.image, "-m", "service", *_SIMULATE)
        self._runtime("run", "--detach", "--name", name, *labels, *options, *command)
        return name

    def pods(self) -> dict[str, dict[str, Any]]:
        said = json.loads(get(f"{self.up.url}/pods"))
        return {pod["name"]: pod for pod in said["fleet"] if pod["name"] in self._names}

    def source(self) -> dict[str, Any]:
        (source,) = json.loads(get(f"{self.up.url}/pods"))["discovery"]
        return dict(source)

    def follower(self) -> psutil.Process | None:
        """The process that follows the containers for the service."""
        for process in psutil.process_iter(["cmdline"]):
            if process.info["cmdline"] and {"discover", self.up.name} <= set(process.info["cmdline"]):
                return process
        return None

    def remove(self) -> None:
        for name in self._names:
            self._runtime("rm", "--force", name, check=False)
        self._runtime("network", "rm", "--force", self.network, check=False)
        self._runtime("network", "rm", self.network, check=False)


@pytest.fixture
def fleet(runtime: RuntimeCommand, make_up: Callable[..., Up]) -> Iterator[Fleet]:
    made = Fleet(runtime, make_up())
    yield made
    made.up.kvcache.run("down", made.up.name)
    made.remove()


def test_engines_in_containers_are_found_in_any_network_and_followed(fleet: Fleet, runtime: RuntimeCommand) -> None:
    beside = fleet.engine()
    assert fleet.up.start("-d", "--discover", "containers").finish().code == 0
    wait_until(lambda: list(fleet.pods()) == [beside])

    runtime("network", "create", fleet.network)
    apart = fleet.engine("--network", fleet.network)
    wait_until(lambda: {name for name, pod in fleet.pods().items() if pod["healthy"]} == {beside, apart})
    assert fleet.network in runtime.inspect(fleet.up.name)["NetworkSettings"]["Networks"]
    assert post(f"{fleet.up.url}/v1/chat/completions", CHAT)["choices"]

    runtime("stop", "--time", "1", beside)
    wait_until(lambda: set(fleet.pods()) == {apart})
    runtime("start", beside)  # at another address, maybe
    wait_until(lambda: set(fleet.pods()) == {beside, apart})
    runtime("rm", "--force", apart)
    wait_until(lambda: set(fleet.pods()) == {beside})


def test_a_discovery_that_ends_keeps_the_engines_and_says_how_to_go_on(fleet: Fleet) -> None:
    engine = fleet.engine()
    command = fleet.up.start("--discovery", "containers")
    command.wait_for("Press Ctrl+C to stop")
    wait_until(lambda: set(fleet.pods()) == {engine})
    follower = fleet.follower()
    assert follower is not None
    follower.send_signal(signal.SIGKILL)
    wait_until(lambda: fleet.source()["failing"])
    assert f"kvcache discover {fleet.up.name}" in fleet.source()["problem"]
    assert set(fleet.pods()) == {engine}

    again = fleet.up.kvcache.start("discover", fleet.up.name)
    wait_until(lambda: not fleet.source()["failing"])
    command.interrupt()
    assert command.finish().code == 0
    assert f"The service {fleet.up.name} is gone" in again.finish().output
    assert not fleet.up.folder.exists()


def test_a_service_that_does_not_ask_for_containers_is_not_followed(make_up: Callable[..., Up]) -> None:
    up = make_up()
    assert up.start("-d").finish().code == 0
    refused = up.kvcache.run("discover", up.name)
    assert refused.code == 1
    assert "kvcache up --discovery containers" in refused.output
