"""Several containers of one deployment that meet at a Valkey, on each runtime."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.command import free_port, wait_until
from tests.e2e.containers import Replicas, RuntimeCommand, Up
from tests.e2e.http import get, post
from tests.e2e.publishers import RecordedEngines
from tests.ports import unassigned_port

_PING = """
import sys
from redis import Redis
from redis.exceptions import AuthenticationError
try:
    Redis(host=sys.argv[1]).ping()
except AuthenticationError:
    print("refused")
"""


@pytest.fixture
def replicas(make_up: Callable[..., Up]) -> Replicas:
    made = make_up(kind=Replicas)
    assert isinstance(made, Replicas)
    return made


def test_replicas_share_pods_hear_all_events_and_outlive_one_of_them(replicas: Replicas, recordings: Path) -> None:
    with RecordedEngines(recordings, "c_lora_salt") as engines:
        options = ("--zmq-endpoint", engines.endpoint, "--block-size", str(engines.block_size))
        command = replicas.start(*options)
        command.wait_for("Press Ctrl+C to stop", seconds=900)
        urls = replicas.urls()
        for name, url in zip(replicas.names, urls, strict=True):
            assert f"  - {name}: {url.replace('127.0.0.1', 'localhost')}" in command.output

        for url in urls:
            wait_until(partial(_is_connected, url), told=partial(get, f"{url}/endpoints"))
        engines.play()
        for url in urls:
            wait_until(partial(_has_heard, url, engines), told=partial(get, f"{url}/pods"))
            _scores_are_true(url, engines)

        post(f"{urls[0]}/pods", {"url": f"http://127.0.0.1:{free_port()}", "name": "registered-at-one"})
        for url in urls:
            wait_until(partial(_knows, url, "registered-at-one"), told=partial(get, f"{url}/pods"))

        replicas.runtime("kill", replicas.names[1])
        command.wait_for(f"Warning: The replica {replicas.names[1]} was killed while it ran (SIGKILL).")
        for url in (urls[0], urls[2]):
            _scores_are_true(url, engines)
        replicas.run("start", replicas.names[1])
        command.wait_for(f"The replica {replicas.names[1]} runs again")
        wait_until(partial(_knows, urls[1], "registered-at-one"), told=partial(get, f"{urls[1]}/pods"))

        command.interrupt()
        done = command.finish()
    assert (done.code, replicas.left()) == (0, []), done.output
    assert done.output.splitlines()[-1] == "Containers removed successfully"
    volumes = replicas.runtime("volume", "ls", "--quiet", "--filter", f"name={replicas.name}").split()
    assert sorted(volumes) == [f"{name}-state" for name in replicas.names]


def test_commands_know_detached_replicas_as_one(replicas: Replicas, runtime: RuntimeCommand) -> None:
    done = replicas.start("-d", "--zmq-endpoint", f"tcp://*:{free_port()}").finish(900)
    assert done.code == 0, done.output

    statuses = replicas.statuses()
    assert [(status["name"], status["role"], status["state"]) for status in statuses.values()] == [
        (replicas.store, "valkey", "running"),
        *((name, "replica", "running") for name in replicas.names),
    ]
    wait_until(partial(_meet, replicas), told=partial(replicas.run, "status"))
    assert re.search(rf"^  Valkey of +{replicas.name} *$", replicas.run("status"), re.MULTILINE)
    named = ("--name", replicas.name)
    assert json.loads(replicas.run("top", "--json", *named))["answering"] == len(replicas.names)
    assert replicas.run("score", "some text", *named)

    logs = replicas.run("logs", *named).splitlines()
    for name, said in ((replicas.store, "Ready to accept connections"), *((n, "Events pool") for n in replicas.names)):
        assert any(line.startswith(f"{name} ") and said in line for line in logs), logs
    following = replicas.kvcache.start("logs", "-f", *named, "--runtime", runtime.kind)
    for name in replicas.names:
        following.wait_for(f"{name}  ")

    again = replicas.start("-d").finish()
    assert (again.code, f"The service {replicas.name} is already up" in again.output) == (1, True), again.output
    doctor = replicas.kvcache.run(
        *("doctor", "--runtime", runtime.kind, *named, "--image", runtime.image, "--replicas", "3", "--port", "0"),
        *("--model", "builtin/demo", "--json"),
    )
    findings = [(finding["check"], finding["text"]) for finding in json.loads(doctor.output)]
    assert ("valkey image", f"{runtime.image}-valkey is up to date") in findings
    for name in (replicas.store, *replicas.names):
        assert ("name", f"{name} is a service of ours (running)") in findings

    replicas.run("restart", *named[1:])
    assert all(status["report"]["ready"] for status in replicas.statuses().values() if status["role"] == "replica")
    assert "Containers removed successfully" in replicas.run("down", *named)
    assert replicas.left() == []
    assert following.finish().code == 0


def test_the_valkey_is_restricted_needs_a_password_and_publishes_nothing(
    replicas: Replicas, runtime: RuntimeCommand
) -> None:
    done = replicas.start("-d").finish(900)
    assert done.code == 0, done.output
    found = runtime.inspect(replicas.store)

    assert found["Config"]["User"] == "10001:10001"
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert not found["HostConfig"]["PortBindings"]
    assert any("no-new-privileges" in option for option in found["HostConfig"]["SecurityOpt"])
    assert set(found["NetworkSettings"]["Networks"]) == {f"{replicas.name}-replicas"}
    status = dict(line.split(":", 1) for line in runtime("exec", replicas.store, "cat", "/proc/1/status").splitlines())
    assert (status["CapEff"].strip(), status["NoNewPrivs"].strip()) == ("0000000000000000", "1")
    ping = ("python", "-c", _PING, replicas.store)
    assert runtime("exec", replicas.names[0], *ping) == "refused"

    configuration = (replicas.folder.parent / replicas.store / "valkey.conf").read_text()
    password = dict(line.split(maxsplit=1) for line in configuration.splitlines())["requirepass"]
    for name in (replicas.store, *replicas.names):
        assert password not in json.dumps(runtime.inspect(name))


def test_after_a_crash_half_way_down_and_the_next_up_remove_what_is_left(replicas: Replicas) -> None:
    for removed_by in ("down", "up"):
        command = replicas.start()
        command.wait_for("Waiting for containers to be ready...", seconds=900)
        command.process.kill()
        command.process.wait()
        assert len(replicas.left()) > len(replicas.names)
        if removed_by == "down":
            replicas.run("down", "--name", replicas.name)
            assert replicas.left() == []

    following = replicas.start()
    following.wait_for("Press Ctrl+C to stop")
    following.interrupt()
    done = following.finish()
    assert (done.code, replicas.left()) == (0, []), done.output


def test_replicas_with_a_store_of_the_users_own_reach_it_on_this_machine_and_start_no_other(
    replicas: Replicas, runtime: RuntimeCommand
) -> None:
    port = unassigned_port()  # on all addresses, each client of this machine with that port would be in the way
    own = f"{replicas.name}-own"
    first = replicas.start("-d").finish(900)  # builds the image
    assert first.code == 0, first.output
    replicas.run("down", "--name", replicas.name)
    server = ("--port", "6379", "--save", "", "--protected-mode", "no", "--dir", "/tmp")
    published = ("--publish", f"0.0.0.0:{port}:6379")
    runtime("run", "--detach", "--name", own, *published, f"{runtime.image}-valkey", *server)

    done = replicas.start("-d", "--env", f"SHARED_STATE=valkey://localhost:{port}").finish()
    assert done.code == 0, done.output
    assert set(replicas.statuses()) == set(replicas.names)
    wait_until(partial(_meet, replicas), told=partial(replicas.run, "status"))
    replicas.run("down", "--name", replicas.name)
    runtime("rm", "--force", own)
    assert replicas.left() == []


def test_a_dry_run_shows_the_network_the_valkey_and_each_replica(replicas: Replicas, runtime: RuntimeCommand) -> None:
    done = replicas.start("--dry-run").finish()
    assert done.code == 0, done.output
    shown = [shlex.split(line.rstrip("\\"))[:5] for line in done.output.splitlines() if line.startswith(runtime.kind)]
    run = [runtime.kind, "run", "--detach", "--name"]
    assert shown == [
        [runtime.kind, "network", "create", f"{replicas.name}-replicas"],
        *([*run, name] for name in (replicas.store, *replicas.names)),
    ]


def _scores_are_true(url: str, engines: RecordedEngines) -> None:
    for probe in engines.probes:
        more: dict[str, str] = {name: probe[name] for name in ("lora_name", "cache_salt") if name in probe}
        scores = post(f"{url}/score", {"prompt": probe["tokens"], "model": engines.model, **more})
        assert scores == ({pod: blocks for pod, blocks in probe["blocks"].items() if blocks} or None)


def _meet(replicas: Replicas) -> bool:
    statuses = replicas.statuses()
    return all(statuses[name]["report"]["shared_state"] == "up" for name in replicas.names)


def _has_heard(url: str, engines: RecordedEngines) -> bool:
    return engines.heard(url) == engines.last


def _knows(url: str, pod: str) -> bool:
    fleet: list[dict[str, Any]] = json.loads(get(f"{url}/pods"))["fleet"]
    return any(known["name"] == pod for known in fleet)


def _is_connected(url: str) -> bool:
    endpoints: list[dict[str, Any]] = json.loads(get(f"{url}/endpoints"))["endpoints"]
    return all(endpoint["state"] == "connected" for endpoint in endpoints)
