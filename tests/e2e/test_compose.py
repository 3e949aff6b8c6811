"""deploy/compose.yaml and its demo, on the image that the other tests built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.command import free_port, wait_until
from tests.conftest import ROOT
from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand
from tests.e2e.http import get


@pytest.fixture
def demo(running: Running, runtime: RuntimeCommand) -> Iterator[str]:
    """The URL of the service, with two simulated engines beside it."""
    if runtime.kind != "docker":
        pytest.skip("Compose is tried with Docker")
    compose = shutil.which("docker-compose")
    if compose is None:
        if os.environ.get("KVCACHE_REQUIRE_RUNTIMES"):
            pytest.fail("docker-compose is missing")
        pytest.skip("docker-compose is missing")
    port = free_port()
    files = [f"--file={ROOT / 'deploy' / name}" for name in ("compose.yaml", "compose.demo.yaml")]
    command = [compose, f"--project-name={runtime.image}-compose", *files]
    environment = {
        **os.environ,
        "KVCACHE_IMAGE": runtime.image,
        "HTTP_PORT": str(port),
        "KVCACHE_EVENTS_PORT": str(free_port()),
    }
    try:
        arguments = [*command, "up", "--detach", "--no-build"]
        up = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert up.returncode == 0, up.stderr
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*command, "down", "--volumes"], env=environment, capture_output=True, check=True)


def test_compose_runs_the_service_and_simulated_engines(demo: str) -> None:
    def pods() -> set[str]:
        return {pod["pod"] for pod in json.loads(get(f"{demo}/pods"))["pods"] if pod["exact"] and pod["blocks"]["gpu"]}

    wait_until(lambda: pods() == {"engine-1", "engine-2"}, told=lambda: str(pods()))
