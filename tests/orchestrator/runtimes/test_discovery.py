"""Which runtime is taken, when none is there or one does not answer. No container runtime is needed for that."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.discovery import connect
from tests.command import Commands, free_port
from tests.orchestrator.invoked import Invoker
from tests.waiting import PATIENCE


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which there is neither Podman nor Docker."""
    return {"CONTAINER_HOST": f"unix://{tmp_path}/no-podman", "DOCKER_HOST": f"unix://{tmp_path}/no-docker"}


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[socket.socket]:
    """Something that listens and says nothing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "silent"))
        server.listen()
        server.settimeout(PATIENCE)
        yield server


def test_without_runtimes_auto_takes_a_child_process_and_says_why(kvcache: Commands, nowhere: dict[str, str]) -> None:
    options = ("--name", "kv-auto", "--port", str(free_port()), "--model", "builtin/demo")
    done = kvcache.run("up", "-d", *options, environment=nowhere)

    assert done.code == 0, done.output
    chosen = done.output.splitlines()[1]
    assert chosen.startswith("Running on host - orchestrating a child process of")
    for reason in ("no-podman", "Docker does not answer at"):
        assert reason in chosen


@pytest.mark.parametrize(
    ("runtime", "said"),
    [("podman", "Error: Podman did not answer when asked to connect"), ("docker", "Error: Docker does not answer at")],
)
def test_a_runtime_that_is_not_there_is_said_with_what_to_do(
    invoker: Invoker, nowhere: dict[str, str], runtime: str, said: str
) -> None:
    for command in ("up", "down"):
        done = invoker.run(command, "--runtime", runtime, environment=nowhere)
        assert done.code == 1
        assert said in done.output
        assert f"{runtime} info" in done.output.splitlines()[-1]
        assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("kind", "remedy"), [("podman", "--user start podman.socket"), ("docker", "usermod -aG docker")]
)
def test_a_socket_that_this_user_may_not_use_has_its_own_remedy(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch, kind: str, remedy: str
) -> None:
    # Tests may run as root, whom no file mode keeps out.
    def refused(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refused)
    for variable in ("CONTAINER_HOST", "DOCKER_HOST"):
        monkeypatch.setenv(variable, f"unix://{silent.getsockname()}")
    with pytest.raises(RuntimeUnavailable, match="Permission denied") as found:
        connect(RuntimeKind(kind))
    assert remedy in found.value.remedy


@pytest.mark.parametrize(("runtime", "variable"), [("podman", "CONTAINER_HOST"), ("docker", "DOCKER_HOST")])
def test_a_runtime_that_does_not_answer_is_not_waited_for_long(
    kvcache: Commands, silent: socket.socket, runtime: str, variable: str
) -> None:
    done = kvcache.run("up", "--runtime", runtime, environment={variable: f"unix://{silent.getsockname()}"})

    assert done.code == 1
    assert "Error: " in done.output
    assert "answer" in done.output
    assert done.seconds < 60  # what either client would take by itself


def test_ctrl_c_while_a_runtime_is_asked_ends_well(kvcache: Commands, silent: socket.socket) -> None:
    environment = {"DOCKER_HOST": f"unix://{silent.getsockname()}"}
    command = kvcache.start("up", "--runtime", "docker", environment=environment)
    connection, _ = silent.accept()
    with connection:
        command.interrupt()
        done = command.finish()
    assert (done.code, done.output.strip()) == (0, "Received shutdown signal")


def test_a_context_of_docker_that_is_not_there_is_said(invoker: Invoker, tmp_path: Path) -> None:
    environment = {"DOCKER_CONTEXT": "kv-none", "DOCKER_CONFIG": str(tmp_path)}
    done = invoker.run("status", "--runtime", "docker", environment=environment)

    assert done.code == 1
    assert "Error: Docker has no context 'kv-none'." in done.output


def test_the_doctor_finds_that_nothing_answers(invoker: Invoker, nowhere: dict[str, str]) -> None:
    options = ("--runtime", "docker", "--model", "builtin/demo", "--zmq-endpoint", "")
    done = invoker.run("doctor", *options, environment=nowhere)

    assert done.code == 1
    assert "problem  docker: Docker does not answer at" in done.output


def test_commands_that_find_nothing_name_the_runtime_that_does_not_answer(
    invoker: Invoker, nowhere: dict[str, str]
) -> None:
    for command in (("down",), ("down", "--all"), ("logs",), ("score", "x")):
        done = invoker.run(*command, environment=nowhere)
        assert done.code == 1, done.output
        assert "not every runtime answers" in done.output
        assert "no-docker" in done.output
        assert "Traceback" not in done.output
    status = invoker.run("status", environment=nowhere)
    assert "Warning: Not every runtime answers" in status.output
    assert "no-docker" in status.output


def test_ssh_without_its_package_is_said_with_what_to_install(kvcache: Commands, tmp_path: Path) -> None:
    (tmp_path / "paramiko.py").write_text("raise ImportError('No module named paramiko', name='paramiko')")
    environment = {"DOCKER_HOST": "ssh://nobody@127.0.0.1:1", "PYTHONPATH": str(tmp_path)}
    done = kvcache.run("status", "--runtime", "docker", environment=environment)

    assert done.code == 1
    assert "Error: Docker " in done.output
    assert "Traceback" not in done.output
