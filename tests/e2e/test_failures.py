"""What goes wrong with a container: said in a line with a remedy, exit code 1, and nothing left behind."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import psutil
import pytest

from tests.command import wait_until
from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand, Up


def test_a_taken_port_is_told_before_anything_is_built(make_up: Callable[..., Up]) -> None:
    up = make_up()
    with socket.create_server(("127.0.0.1", up.port)):
        done = up.start("--build").finish()

    assert done.code == 1
    assert f"Error: Port {up.port} of 127.0.0.1 is taken by" in done.output
    assert "(process " in done.output
    assert "Building" not in done.output
    assert up.left() == []


def test_a_port_that_another_container_publishes_is_told_with_its_name(
    make_up: Callable[..., Up], running: Running
) -> None:
    up = make_up()
    up.port = running.port
    done = up.start().finish()

    assert done.code == 1
    assert f"Error: Port {up.port} of 127.0.0.1 is taken by {running.name}." in done.output


def test_a_container_that_is_not_ours_is_never_removed(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    runtime("create", "--name", up.name, runtime.image)
    before = runtime.inspect(up.name)["Id"]

    done = up.start().finish()
    assert done.code == 1
    assert f"Error: The name {up.name} is taken by a container that is not ours" in done.output
    assert f"{runtime.kind} rm -f {up.name}" in done.output

    assert up.kvcache.run("down", "--runtime", runtime.kind, "--name", up.name).code == 0
    assert runtime.inspect(up.name)["Id"] == before


def test_up_again_is_refused_while_it_is_up(running: Running) -> None:
    done = running.start().finish()

    assert done.code == 1
    assert f"Error: The service {running.name} is already up on {running.runtime.kind}." in done.output
    assert running.runtime.inspect(running.name)["State"]["Running"]


def test_a_container_whose_up_was_killed_is_cleaned_up_by_the_next(make_up: Callable[..., Up]) -> None:
    up = make_up()
    first = up.start()
    first.wait_for("Press Ctrl+C to stop")
    first.process.kill()
    first.process.wait()
    orphan = up.runtime.inspect(up.name)["Id"]

    second = up.start()
    second.wait_for("Press Ctrl+C to stop")
    assert up.runtime.inspect(up.name)["Id"] != orphan


def test_a_container_that_stopped_is_cleaned_up(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    assert up.start("-d").finish().code == 0
    runtime("stop", up.name)
    assert up.start("-d").finish().code == 0


def test_a_container_that_dies_while_starting_shows_its_last_lines_and_code(make_up: Callable[..., Up]) -> None:
    up = make_up()
    done = up.start("--env", "SECRET_ENVIRONMENT=/no/such/file").finish()

    assert done.code == 1
    assert "/no/such/file" in done.output
    assert "Error: The service ended while it started, with code 1." in done.output
    assert up.left() == []


def test_a_container_that_dies_while_it_runs_ends_up(make_up: Callable[..., Up], runtime: RuntimeCommand) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    runtime("kill", up.name)
    done = command.finish()

    assert done.code == 1
    assert "Error: The service was killed while it ran (SIGKILL)." in done.output
    assert up.left() == []


def test_a_container_that_has_too_little_memory_is_told_with_the_option_that_helps(make_up: Callable[..., Up]) -> None:
    up = make_up()
    done = up.start("--memory", "24m", "--timeout", "100").finish(400)

    assert done.code == 1
    # Not every runtime knows, on every kernel, that memory was the reason.
    assert "out of memory" in done.output or "when memory runs out" in done.output
    assert "--memory" in done.output.splitlines()[-1]
    assert up.left() == []


def test_a_container_that_is_not_healthy_in_time_is_removed(make_up: Callable[..., Up]) -> None:
    up = make_up()
    done = up.start("--timeout", "0.1").finish()

    assert done.code == 1
    assert "Error: The service is not healthy after 0.1 s." in done.output
    assert up.left() == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("Starting container...", signal.SIGINT),
        ("Waiting for container to be ready...", signal.SIGTERM),
        ("Press Ctrl+C to stop", signal.SIGHUP),
    ],
)
def test_a_signal_removes_the_container_at_any_moment(
    make_up: Callable[..., Up], moment: str, number: signal.Signals
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and so by commands that tests start")
    up = make_up()
    command = up.start()
    command.wait_for(moment)
    command.process.send_signal(number)
    done = command.finish()
    assert done.code == 0, done.output
    assert "Container removed successfully" in done.output
    assert up.left() == []


def test_a_second_ctrl_c_does_not_wait_for_a_container_that_does_not_stop(
    make_up: Callable[..., Up], runtime: RuntimeCommand
) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    service = psutil.Process(runtime.inspect(up.name)["State"]["Pid"])
    service.suspend()
    command.interrupt()
    command.wait_for("Shutting down...")
    command.interrupt()
    done = command.finish()
    service.wait(60)

    assert done.code == 0
    assert "Received a second shutdown signal, not waiting" in done.output
    assert up.left() == []


def test_down_from_elsewhere_ends_up_well(make_up: Callable[..., Up]) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    assert up.kvcache.run("down", "--name", up.name, "--runtime", up.runtime.kind).code == 0
    done = command.finish()

    assert done.code == 0
    assert "The service was stopped by someone else" in done.output
    wait_until(lambda: up.left() == [])
