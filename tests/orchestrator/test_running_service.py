"""A service that is up: what other commands say of it, and what it was given."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Commands, wait_until
from tests.orchestrator.invoked import Invoked, Invoker
from tests.orchestrator.launched import Up

_TOKEN = "not-a-real-token"  # noqa: S105 - so it says


class Running(Up):
    """Started detached and quiet, from a shell in which settings of the service happen to be set."""

    def __init__(self, kvcache: Commands) -> None:
        super().__init__(kvcache)
        shell = {"INDEX_MAX_BLOCKS": "nonsense", "LOG_LEVEL": "debug", "LOG_FORMAT": "json", "HF_TOKEN": _TOKEN}
        self.begun = time.time()
        self.started = self.run("-d", "--quiet", "--env", "LOG_FORMAT", "--env", "MAX_MODELS=3", **shell)

    def command(self, *arguments: str) -> Invoked:
        return Invoker(self.kvcache.folder).run(*arguments, "--runtime", "process")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    commands = Commands(tmp_path_factory.mktemp("running"))
    running = Running(commands)
    wait_until(lambda: running.get("/ready")[0] == 200)
    yield running
    running.command("down", "--all")
    commands.close()


def test_quiet_says_nothing_when_all_is_well(up: Running) -> None:
    assert (up.started.code, up.started.output) == (0, "")


def test_another_up_is_refused_and_leaves_the_service_alone(up: Running) -> None:
    again = up.run()

    assert again.code == 1
    assert f"Error: The service {up.name} is already up on process." in again.output
    assert f"kvcache down --name {up.name}" in again.output
    assert up.get("/health") == (200, "OK")


def test_the_token_is_a_file_in_a_closed_folder_and_nowhere_else(up: Running) -> None:
    environment = up.service.environ()

    assert _TOKEN not in " ".join([*environment.values(), *up.service.cmdline()])
    path = Path(environment["HF_TOKEN_PATH"])
    assert path.read_text() == _TOKEN
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_settings_of_the_service_in_the_shell_count_only_when_passed(up: Running) -> None:
    environment = up.service.environ()

    assert (environment["LOG_FORMAT"], environment["MAX_MODELS"]) == ("json", "3")
    assert not {"INDEX_MAX_BLOCKS", "LOG_LEVEL"} & environment.keys()


def test_status_tells_where_and_how_it_runs_and_what_it_reports(up: Running) -> None:
    (status,) = json.loads(up.command("status", "--json").output)

    assert 0 < status.pop("uptime") < time.time() - up.begun + 1
    # Whether the inner loops are compiled depends on the machine that runs the tests.
    assert isinstance(status["report"].pop("compiled"), bool)
    (endpoint,) = status["report"].pop("endpoints")
    assert (endpoint["address"][:16], endpoint["messages"]) == ("tcp://127.0.0.1:", 0)
    assert status == {
        "name": up.name,
        "deployment": up.name,
        "role": "replica",
        "runtime": "process",
        "engine": "process",
        "image": "",
        "state": "running",
        "health": "healthy",
        "ports": [f"127.0.0.1:{up.port}"],
        "detached": True,
        "model": "builtin/demo",
        "report": {
            "ready": True,
            "reasons": [],
            "pods": 1,
            "blocks": 0,
            "exact": False,
            "open_to_others": False,
            "refused": False,
            "shared_state": None,
            "fleet": [],
            "discovery": [],
        },
    }
    shown = up.command("status")
    assert shown.code == 0
    assert "running (healthy)" in shown.output
    assert "ready; 1 pod, 0 blocks, not all exact" in shown.output


@pytest.mark.parametrize("command", [("status",), ("top", "kv-test", "--once")])
def test_a_pipe_gets_whole_lines_however_narrow_the_terminal_is(up: Running, command: tuple[str, ...]) -> None:
    (status,) = json.loads(up.command("status", "--json").output)
    done = up.kvcache.run(*command, "--runtime", "process", environment={"COLUMNS": "20"})

    assert done.code == 0, done.output
    address = status["report"]["endpoints"][0]["address"]
    expected = f"events   {address}: " if command == ("status",) else f"{address.removeprefix('tcp://')} "
    assert expected in done.output, done.output


def test_logs_give_the_last_lines_and_those_since_a_time(up: Running) -> None:
    up.get("/health")
    whole = up.command("logs", "--name", up.name)
    lines = whole.output.splitlines()
    assert whole.code == 0
    assert any("Events pool started" in line for line in lines)

    assert up.command("logs", "--name", up.name, "--tail", "1").output.splitlines()[0] in lines
    assert len(up.command("logs", "--name", up.name, "--tail", "2").output.splitlines()) == 2
    assert up.command("logs", "--name", up.name, "--since", "2999-01-01").output == ""
    assert "Events pool started" in up.command("logs", "--name", up.name, "--since", "1h").output


def test_logs_follow_what_is_written_until_ctrl_c(up: Running) -> None:
    following = up.kvcache.start("logs", "-f", "--tail", "0", "--name", up.name, "--runtime", "process")
    # Asked again and again, since nothing says when the other command begins to look.
    wait_until(lambda: up.get("/no/such/path")[0] == 404 and "/no/such/path" in following.output)
    following.interrupt()

    assert following.finish().code == 130


def test_the_doctor_knows_that_the_service_itself_has_the_port(up: Running) -> None:
    options = ("--name", up.name, "--port", str(up.port), "--model", "builtin/demo")
    done = up.command("doctor", *options, "--zmq-endpoint", "")

    assert done.code == 0, done.output
    assert f"ok       port: {up.port} of 127.0.0.1 is held by {up.name} itself" in done.output
