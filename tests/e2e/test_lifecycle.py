"""A detached service over time: stopped, started, restarted, in other networks, and as a command line shows it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests

from tests.command import wait_until
from tests.e2e.containers import RuntimeCommand, Up
from tests.e2e.http import get
from tests.e2e.publishers import RecordedEngines


def test_it_is_stopped_started_and_restarted_by_name(make_up: Callable[..., Up]) -> None:
    up = make_up()
    assert up.start("-d").finish().code == 0

    def kvcache(*arguments: str) -> str:
        done = up.kvcache.run(*arguments, "--runtime", up.runtime.kind)
        assert done.code == 0, done.output
        return done.output

    assert "Container stopped" in kvcache("stop", up.name)
    with pytest.raises(requests.ConnectionError):
        get(f"{up.url}/health")
    (status,) = [found for found in json.loads(kvcache("status", "--json")) if found["name"] == up.name]
    assert (status["state"], status["health"], status["report"]) == ("exited", "unknown", None)

    assert "Container is ready!" in kvcache("start", up.name)
    assert get(f"{up.url}/health") == "OK"
    assert "Container is ready!" in kvcache("restart", up.name)
    assert get(f"{up.url}/health") == "OK"


def test_a_service_that_comes_back_continues_from_its_volume(make_up: Callable[..., Up], recordings: Path) -> None:
    up = make_up()
    with RecordedEngines(recordings, "c_lora_salt") as engines:
        options = ("-d", "--zmq-endpoint", engines.endpoint, "--block-size", str(engines.block_size))
        assert up.start(*options).finish().code == 0
        engines.play()
        wait_until(lambda: engines.heard(up.url) == engines.last)
        assert up.kvcache.run("down", "--runtime", up.runtime.kind, "--name", up.name).code == 0
        assert up.left() == []

        assert up.start(*options).finish().code == 0
        wait_until(lambda: engines.heard(up.url) == engines.last)
        told = up.kvcache.run("logs", "--runtime", up.runtime.kind, "--name", up.name).output
        assert re.search(rf"loaded \d+ blocks of {len(engines.pods)} ranks from", told), told


def test_a_service_in_the_foreground_is_not_stopped_under_its_up(make_up: Callable[..., Up]) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    done = up.kvcache.run("stop", up.name, "--runtime", up.runtime.kind)
    assert done.code == 1
    assert "belongs to a `kvcache up` in the foreground" in done.output


def test_the_runtime_says_healthy_when_up_says_ready(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    assert up.start("-d").finish().code == 0
    assert "(healthy)" in runtime("ps", "--filter", f"name={up.name}", "--format", "{{.Status}}")


def test_a_restart_policy_is_the_runtimes(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    assert up.start("-d", "--restart", "on-failure").finish().code == 0
    assert runtime.inspect(up.name)["HostConfig"]["RestartPolicy"]["Name"] == "on-failure"
    first = runtime.inspect(up.name)["State"]["Pid"]
    psutil.Process(first).kill()
    wait_until(lambda: runtime.inspect(up.name)["State"]["Pid"] not in {0, first})


def test_containers_of_a_network_are_reached_by_name(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    networks = (f"{runtime.image}-one", f"{runtime.image}-two")
    for network in networks:
        runtime("network", "create", network)
    up = make_up()
    try:
        options = [word for network in networks for word in ("--network", network)]
        done = up.start("-d", *options).finish()
        assert done.code == 0, done.output
        assert set(runtime.inspect(up.name)["NetworkSettings"]["Networks"]) == set(networks)
        program = f"import socket; print(socket.gethostbyname({up.name!r}))"
        assert runtime("exec", up.name, "python", "-c", program)
    finally:
        runtime("rm", "--force", up.name, check=False)
        for network in networks:
            runtime("network", "rm", network, check=False)


def test_a_render_server_of_this_machine_has_another_name_in_a_container(make_up: Callable[..., Up]) -> None:
    done = make_up().start("--dry-run", "--env", "RENDER_URL=http://localhost:9000").finish()
    assert "RENDER_URL=http://host.containers.internal:9000" in done.output


def test_what_a_dry_run_shows_runs_the_same_service(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    done = up.start("--dry-run").finish()
    assert done.code == 0, done.output
    assert f"# image {runtime.image} is up to date" in done.output
    command = "".join(line for line in done.output.splitlines(keepends=True) if not line.startswith("#"))
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    wait_until(lambda: _answers(up))
    assert runtime.inspect(up.name)["HostConfig"]["ReadonlyRootfs"]


def _answers(up: Up) -> bool:
    try:
        return get(f"{up.url}/health") == "OK"
    except requests.RequestException:
        return False


def test_a_password_of_a_proxy_is_not_shown_by_inspect(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    environment = {"HTTPS_PROXY": "http://me:proxy-password@127.0.0.1:9"}
    # The image is the one that was built without a proxy.
    assert up.start("-d", "--no-build", environment=environment).finish().code == 0
    assert "proxy-password" not in json.dumps(runtime.inspect(up.name))
    seen = runtime("exec", up.name, "python", "-c", "print(open('/run/secrets/environment').read())")
    assert "http://me:proxy-password@host.containers.internal:9" in seen
