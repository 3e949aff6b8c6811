"""`up` and `down` for real, on the runtime that every machine has: a child process."""

from __future__ import annotations

import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.command import Commands, free_port, wait_until
from tests.conftest import ROOT
from tests.orchestrator.invoked import Invoker
from tests.orchestrator.launched import Up
from tests.tries import only_thorough


@pytest.fixture
def up(kvcache: Commands) -> Up:
    return Up(kvcache)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=only_thorough),
        pytest.param(signal.SIGHUP, marks=only_thorough),
    ],
)
def test_up_says_each_step_and_ctrl_c_removes_what_it_started(up: Up, number: signal.Signals) -> None:
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    assert up.get("/health") == (200, "OK")

    command.process.send_signal(number)
    done = command.finish()

    said = [
        "Running on host",
        "Cleaning up any existing process...",
        "Starting process...",
        "Waiting for process to be ready...",
        "Process is ready!",
        "kvcache is ready!",
        f"POST http://localhost:{up.port}/score ",
        f"POST http://localhost:{up.port}/score_completions ",
        f"POST http://localhost:{up.port}/v1/chat/completions ",
        f"Page for browsers: http://localhost:{up.port}/ui\n",
        "Press Ctrl+C to stop",
        "Received shutdown signal",
        "Shutting down...",
        "Process removed successfully",
    ]
    places = [done.output.find(text) for text in said]
    assert -1 not in places, done.output
    assert places == sorted(places)
    assert done.code == 0
    assert up.left() == []


def test_a_detached_service_stays_until_down_which_may_come_twice(up: Up) -> None:
    done = up.run("--detach")
    assert done.code == 0, done.output
    assert "Press Ctrl+C" not in done.output
    assert up.get("/health") == (200, "OK")

    assert "Process removed successfully" in up.kvcache.run("down", "--name", up.name, "--runtime", "process").output
    assert up.left() == []
    again = up.kvcache.run("down", "--name", up.name, "--runtime", "process")
    assert (again.code, again.output.strip()) == (0, f"Nothing to remove: no service named {up.name}")


@only_thorough
def test_up_warns_once_of_a_shared_state_that_is_down(up: Up) -> None:
    done = up.run("--detach", "--env", f"SHARED_STATE=valkey://localhost:{free_port()}")
    assert done.code == 0, done.output
    assert done.output.count("The shared state is down since") == 1


@only_thorough
def test_down_all_removes_every_service(kvcache: Commands) -> None:
    one, other = Up(kvcache, "kv-one"), Up(kvcache, "kv-other")
    assert one.run("-d").code == other.run("-d").code == 0

    assert kvcache.run("down", "--all", "--runtime", "process").code == 0
    assert one.left() == other.left() == []


def test_the_service_of_a_killed_up_ends_with_it_and_the_next_up_cleans_up(up: Up) -> None:
    first = up.start()
    first.wait_for("Press Ctrl+C to stop")
    service = up.service
    first.process.kill()
    wait_until(lambda: not service.is_running())

    second = up.start()
    second.wait_for("Press Ctrl+C to stop")
    second.interrupt()
    assert second.finish().code == 0
    assert up.left() == []


def test_a_taken_port_is_named_with_the_one_who_has_it(up: Up, invoker: Invoker) -> None:
    with socket.create_server(("127.0.0.1", up.port)):
        done = invoker.run(*up.arguments())

    assert done.code == 1
    assert f"Error: Port {up.port} of 127.0.0.1 is taken by" in done.output
    assert f"(process {os.getpid()})" in done.output
    assert "Starting process" not in done.output
    assert not up.folder.exists()


def test_a_service_that_dies_while_starting_shows_its_last_lines_and_code(up: Up) -> None:
    done = up.run("--env", "SECRET_ENVIRONMENT=/no/such/file")

    assert done.code == 1
    assert "/no/such/file" in done.output
    assert "Error: The service ended while it started, with code 1." in done.output
    assert "Traceback" not in done.output
    assert up.left() == []


def test_a_service_that_is_not_healthy_in_time_is_removed(up: Up) -> None:
    done = up.run("--timeout", "0.1")

    assert done.code == 1
    assert "Error: The service is not healthy after 0.1 s." in done.output
    assert up.left() == []


def test_up_ends_when_its_service_dies(up: Up) -> None:
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    up.service.kill()
    done = command.finish()

    assert done.code == 1
    assert "Error: The service was killed while it ran (SIGKILL)." in done.output
    assert up.left() == []


@only_thorough
def test_up_ends_well_when_somebody_else_takes_its_service_down(up: Up) -> None:
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    assert up.kvcache.run("down", "--name", up.name, "--runtime", "process").code == 0
    done = command.finish()

    assert done.code == 0
    assert "The service was stopped by someone else" in done.output
    assert up.left() == []


@only_thorough
def test_a_second_ctrl_c_does_not_wait_for_a_service_that_does_not_stop(up: Up) -> None:
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    up.service.suspend()
    command.interrupt()
    command.wait_for("Shutting down...")
    command.interrupt()
    done = command.finish()

    assert done.code == 0
    assert "Received a second shutdown signal, not waiting" in done.output
    assert up.left() == []


def test_ctrl_c_while_waiting_for_the_service_removes_it(up: Up) -> None:
    command = up.start()
    command.wait_for("Waiting for process to be ready...")
    command.interrupt()
    done = command.finish()

    assert done.code == 0
    assert "Received shutdown signal" in done.output
    assert up.left() == []


@only_thorough
def test_a_model_that_is_not_to_be_had_is_told_while_the_service_stays_up(up: Up) -> None:
    done = up.run("-d", "--model", "some/model", "--hf-endpoint", f"http://127.0.0.1:{free_port()}")

    assert done.code == 0
    assert "Warning: " in done.output
    assert "some/model" in done.output
    assert up.get("/health") == (200, "OK")


# Read by each Python that starts: the service begins when the file is there.
_WAITS_FOR_FILE = """
import os, sys, time
while "service" in sys.orig_argv and not os.path.exists({path!r}):
    time.sleep(0.01)
"""


@only_thorough
def test_another_program_that_takes_the_port_after_the_check_is_not_taken_for_the_service(
    up: Up, tmp_path: Path
) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", up.port), Stranger, bind_and_activate=False) as stranger:
        stranger.server_bind()  # as long as it does not listen, the port looks free
        go = tmp_path / "go"
        (tmp_path / "sitecustomize.py").write_text(_WAITS_FOR_FILE.format(path=str(go)))
        command = up.start(PYTHONPATH=str(tmp_path))
        command.wait_for("Starting process")
        stranger.server_activate()
        thread = threading.Thread(target=stranger.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        go.touch()
        done = command.finish()
        stranger.shutdown()
        thread.join()

    assert done.code == 1, done.output
    assert "Error: The service ended while it started" in done.output
    assert "is ready" not in done.output
    assert not up.folder.exists()


@only_thorough
def test_of_two_that_want_one_port_exactly_one_comes_up(kvcache: Commands) -> None:
    one, other = Up(kvcache, "kv-one"), Up(kvcache, "kv-other")
    other.port = one.port
    done = [command.finish() for command in (one.start("-d"), other.start("-d"))]

    assert sorted(command.code for command in done) == [0, 1], [command.output for command in done]
    assert one.get("/health") == (200, "OK")
    (lost,) = (command.output for command in done if command.code)
    assert f"on port {one.port}" in lost or f"Port {one.port} of 127.0.0.1 is taken by kv-" in lost


@only_thorough  # two silent health checks of the host are ten seconds and more apart
def test_a_hung_service_is_noticed_and_so_is_that_it_answers_again(up: Up) -> None:
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    up.service.suspend()
    command.wait_for("Warning: The service does not answer")
    up.service.resume()
    command.wait_for("The service answers again")
    command.interrupt()
    assert command.finish().code == 0


def test_what_a_killed_up_left_on_the_host_is_removed_by_the_next(up: Up, kvcache: Commands) -> None:
    left = kvcache.state / "process" / "kv-killed"
    left.mkdir(parents=True)
    (left / "hf-token").touch()
    (kvcache.state / "process" / "kv-killed.lock").touch()

    assert up.run("-d").code == 0
    assert sorted(path.name for path in (kvcache.state / "process").iterdir()) == [up.name]


def test_a_bound_port_of_events_is_checked_too_and_its_option_named(up: Up, invoker: Invoker) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        done = invoker.run(*up.arguments(), "--zmq-endpoint", f"tcp://*:{port}")

    assert done.code == 1
    assert f"Error: Port {port} of 0.0.0.0 is taken by" in done.output
    assert "--zmq-endpoint, such as tcp://*:" in done.output


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("nonsense", 2, "'nonsense' is not an IP address"),
        ("192.0.2.1", 1, "192.0.2.1 is not an address of this machine"),
    ],
)
def test_an_address_on_which_nothing_can_be_published_is_refused(
    up: Up, invoker: Invoker, address: str, code: int, said: str
) -> None:
    done = invoker.run(*up.arguments("--publish-address", address))
    assert (done.code, said in done.output) == (code, True), done.output
    assert "Starting process" not in done.output


@only_thorough
def test_an_ipv6_address_is_shown_in_brackets(up: Up) -> None:
    done = up.run("-d", "--publish-address", "::1")
    if "not an address of this machine" in done.output:
        pytest.skip("this machine has no IPv6")
    assert done.code == 0, done.output
    assert f"http://localhost:{up.port}/score" in done.output
    shown = up.kvcache.run("status", "--runtime", "process").output
    assert f"[::1]:{up.port}" in shown


def test_files_are_named_from_the_callers_folder_and_a_missing_one_stops_up_before_it_starts(
    kvcache: Commands, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "pods.yaml").write_text("- http://127.0.0.1:9\n")
    (folder / "key").write_text("sk-1")
    up = Up(Commands(tmp_path, folder))
    options = ("-d", "--pod", "http://127.0.0.2:9,key_file=key", "--env", "PODS_FILE=pods.yaml")
    done = up.run(*options, PYTHONPATH=str(ROOT))
    assert done.code == 0, done.output
    wait_until(lambda: "http://127.0.0.1:9" in up.get("/pods")[1], told=lambda: up.get("/pods")[1])
    assert "http://127.0.0.2:9" in up.get("/pods")[1]

    for missing in ("--pod=http://127.0.0.1:9,key_file=nope", "--env=API_KEYS_FILE=nope"):
        for dry in ((), ("--dry-run",)):
            done = Up(kvcache, "kv-other").run(missing, *dry)
            assert (done.code, "nope does not exist" in done.output) == (2, True), done.output
            assert len(done.output.splitlines()) == 2


@only_thorough
def test_a_service_without_a_pod_that_takes_requests_is_up_and_not_ready(up: Up) -> None:
    done = up.run("-d", "--pod", f"http://127.0.0.1:{free_port()}")
    assert done.code == 0, done.output
    assert "kvcache is up, but no pod can take requests" in done.output
    assert "kvcache is ready!" not in done.output
    assert f"POST http://localhost:{up.port}/v1/chat/completions - Forwarded to the pods" in done.output
