"""What happens around a service that is up: two that want one port, a pause, a runtime's API that goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.command import wait_until
from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand, Up
from tests.e2e.http import get
from tests.e2e.restarts import restarting_api


def test_of_two_that_want_one_port_exactly_one_comes_up(make_up: Callable[..., Up]) -> None:
    one, other = make_up(), make_up()
    other.port = one.port
    done = [command.finish() for command in (one.start("-d"), other.start("-d"))]

    assert sorted(command.code for command in done) == [0, 1], [command.output for command in done]
    (lost,) = (command.output for command in done if command.code)
    assert f"on port {one.port}" in lost or f"Port {one.port} of 127.0.0.1 is taken by" in lost
    assert get(f"{one.url}/health") == "OK"


def test_a_paused_container_is_noticed_and_not_replaced_without_a_word(
    make_up: Callable[..., Up], runtime: RuntimeCommand
) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    runtime("pause", up.name)
    command.wait_for("Warning: The container is paused.")
    assert f"{runtime.kind} unpause {up.name}" in command.output

    again = up.start().finish()
    assert again.code == 1
    assert f"Error: The service {up.name} is there and paused on {runtime.kind}." in again.output

    runtime("unpause", up.name)
    command.wait_for("The container goes on")
    runtime("pause", up.name)
    command.interrupt()
    assert command.finish().code == 0
    assert up.left() == []


def test_podmans_own_api_is_started_again_when_it_ends(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    if "an API of our own" not in command.output:
        pytest.skip("this runtime's API is not started by kvcache")
    for child in psutil.Process(command.process.pid).children():
        child.kill()
    command.wait_for("Podman answers again")
    assert "Warning: Podman did not answer" in command.output

    command.interrupt()
    done = command.finish()
    assert (done.code, up.left()) == (0, []), done.output


def test_a_runtime_that_restarts_is_waited_for_and_its_container_goes_on(
    make_up: Callable[..., Up], runtime: RuntimeCommand, tmp_path: Path
) -> None:
    up = make_up()
    with restarting_api(runtime.kind, tmp_path) as api:
        command = up.start(environment=api.environment)
        command.wait_for("Press Ctrl+C to stop")
        before = runtime.inspect(up.name)["Id"]

        api.kill()
        command.wait_for("The container goes on; trying again.")
        assert f"Warning: {runtime.kind.capitalize()} did" in command.output
        assert get(f"{up.url}/health") == "OK"

        api.start()
        command.wait_for(f"{runtime.kind.capitalize()} answers again")
        assert runtime.inspect(up.name)["Id"] == before
        command.interrupt()
        done = command.finish()
    assert (done.code, up.left()) == (0, []), done.output


def test_a_port_of_another_runtimes_container_is_told_with_its_name(
    make_up: Callable[..., Up], running: Running, runtime: RuntimeCommand
) -> None:
    other = "docker" if runtime.kind == "podman" else "podman"
    up = make_up()
    up.port = running.port
    done = up.kvcache.run("up", "--runtime", other, "--name", up.name, "--port", str(up.port), "--no-build")
    if "did not answer" in done.output or "does not answer" in done.output:
        pytest.skip(f"{other} is not here")
    assert done.code == 1
    assert f"is taken by {running.name} (on {runtime.kind})." in done.output


def test_an_ipv6_address_works_or_is_refused(make_up: Callable[..., Up]) -> None:
    up = make_up()
    done = up.start("-d", "--publish-address", "::1").finish()
    if done.code:
        assert "Error: --publish-address: ::1 is not" in done.output
        assert up.left() == []
    else:
        assert get(f"http://[::1]:{up.port}/health") == "OK"


def test_a_killed_build_is_swept(
    make_up: Callable[..., Up], runtime: RuntimeCommand, changed: Callable[..., Up]
) -> None:
    up = changed("ARG PIP_INDEX_URL\n", f"RUN {runtime.sleep}\n")
    before = runtime.containers()
    command = up.start("--image", f"{runtime.image}-killed")
    wait_until(runtime.sleeps, told=lambda: command.output)
    command.process.kill()
    command.process.wait()

    swept = make_up()
    done = swept.start("-d").finish()
    assert done.code == 0, done.output
    assert swept.kvcache.run("down", swept.name, "--runtime", runtime.kind).code == 0
    wait_until(lambda: runtime.containers() <= before)
    wait_until(lambda: not runtime.sleeps())
    assert not any(up.kvcache.state.rglob("*.lock"))
