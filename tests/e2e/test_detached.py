"""A detached service, and the commands that find it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import free_port, wait_until
from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand, Up
from tests.e2e.http import get


@pytest.fixture
def up(make_up: Callable[..., Up]) -> Iterator[Up]:
    up = make_up()
    done = up.start("-d").finish()
    assert done.code == 0, done.output
    yield up


def test_it_is_found_reported_and_taken_down(up: Up) -> None:
    runtime = up.runtime.kind
    listed = json.loads(up.kvcache.run("status", "--json").output)
    (status,) = [found for found in listed if found["name"] == up.name]
    assert status.pop("uptime") >= 0
    assert status.pop("image").removeprefix("localhost/").removesuffix(":latest") == up.runtime.image
    assert status.pop("health") in {"starting", "healthy"}
    assert len(status["report"].pop("endpoints")) == 1
    status["report"].pop("pods")  # those that the endpoint names
    assert status == {
        "name": up.name,
        "deployment": up.name,
        "role": "replica",
        "runtime": runtime,
        "engine": runtime,
        "state": "running",
        "ports": [f"127.0.0.1:{up.port}"],
        "detached": True,
        "model": "builtin/demo",
        "report": {
            "ready": True,
            "reasons": [],
            "blocks": 0,
            "exact": False,
            "compiled": True,
            "open_to_others": False,
            "refused": False,
            "shared_state": None,
            "fleet": [],
            "discovery": [],
        },
    }

    down = up.kvcache.run("down", "--name", up.name)
    assert (down.code, "Container removed successfully" in down.output) == (0, True)
    assert up.left() == []
    again = up.kvcache.run("down", "--name", up.name)
    assert (again.code, again.output.strip()) == (0, f"Nothing to remove: no service named {up.name}")


def test_logs_have_a_tail_a_since_and_can_be_followed_to_the_end(up: Up) -> None:
    named = ("logs", "--name", up.name, "--runtime", up.runtime.kind)
    assert len(up.kvcache.run(*named, "--tail", "2").output.splitlines()) == 2
    assert "Events pool started" in up.kvcache.run(*named, "--since", "10m").output
    assert up.kvcache.run(*named, "--since", "2100-01-01").output == ""

    following = up.kvcache.start(*named, "-f")
    following.wait_for("Events pool started")
    up.runtime("stop", up.name)
    done = following.finish()
    assert done.code == 0
    assert "Received shutdown signal" in done.output


def test_limits_ports_and_folders_are_given_to_the_container(
    make_up: Callable[..., Up], runtime: RuntimeCommand, tmp_path: Path
) -> None:
    model = tmp_path / "models" / "org" / "name"
    model.mkdir(parents=True)
    (model / "tokenizer.json").write_text("{}")
    cache, port = tmp_path / "cache", free_port()
    up = make_up()
    limits = ("--cpus", "0.5", "--memory", "300m")
    folders = ("--models-dir", str(tmp_path / "models"), "--hf-cache", str(cache))
    done = up.start("-d", *limits, *folders, "--zmq-endpoint", f"tcp://*:{port}").finish()

    assert done.code == 0, done.output
    mounts = {mount["Destination"] for mount in runtime.inspect(up.name)["Mounts"] if mount["Type"] != "tmpfs"}
    assert mounts == {"/models", "/cache/huggingface", "/state"}
    found = runtime.inspect(up.name)["HostConfig"]
    assert found["Memory"] == 300 << 20
    assert found["NanoCpus"] == 500_000_000 or (found["CpuQuota"], found["CpuPeriod"]) == (50_000, 100_000)
    assert runtime("exec", up.name, "cat", "/models/org/name/tokenizer.json") == "{}"
    runtime("exec", up.name, "touch", "/cache/huggingface/downloaded")
    assert (cache / "downloaded").exists()
    with_port = runtime.inspect(up.name)["NetworkSettings"]["Ports"][f"{port}/tcp"]
    assert with_port == [{"HostIp": "127.0.0.1", "HostPort": str(port)}]


def test_the_doctor_finds_nothing_that_would_stop_up(running: Running, runtime: RuntimeCommand) -> None:
    options = ("--runtime", runtime.kind, "--name", running.name, "--image", runtime.image, "--model", "builtin/demo")
    done = running.kvcache.run("doctor", *options, "--port", str(running.port), "--json")

    assert done.code == 0, done.output
    findings = {finding["check"]: finding for finding in json.loads(done.output)}
    assert findings[runtime.kind]["severity"] == "ok"
    assert findings["image"]["text"] == f"{runtime.image} is up to date, and its inner loops are compiled"
    assert findings["container"]["text"] == f"one of {runtime.image} can be started"
    assert findings["port"]["text"] == f"{running.port} of 127.0.0.1 is held by {running.name} itself"
    assert findings["events"]["severity"] == "warning"


def test_the_hubs_cache_is_kept_between_runs(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    first = make_up()
    assert first.start("-d").finish().code == 0
    runtime("exec", first.name, "touch", f"/cache/huggingface/{first.name}")
    assert first.kvcache.run("down", "--name", first.name, "--runtime", runtime.kind).code == 0

    second = make_up()
    assert second.start("-d").finish().code == 0
    runtime("exec", second.name, "rm", f"/cache/huggingface/{first.name}")
    wait_until(lambda: get(f"{second.url}/health") == "OK")
