"""A process that several threads share: it dies, cannot be started, or is to end while it starts."""

from __future__ import annotations

import fcntl
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from service.prompts.workers import process
from service.prompts.workers.process import WorkerLost
from service.prompts.workers.shared import SharedProcess
from tests.clock import Clock

ECHOING = "tests.service.prompts.workers.echoing_worker"
DYING = "tests.service.prompts.models.dying_worker"
LONG_SECONDS = 60.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shared(clock: Clock) -> Iterator[SharedProcess]:
    made = SharedProcess(ECHOING, 100_000, "the echo", clock)
    yield made
    made.close()


def test_a_process_that_died_twice_is_started_again_after_five_seconds_though_requests_kept_coming(
    shared: SharedProcess, clock: Clock
) -> None:
    shared._process._module = DYING
    with pytest.raises(WorkerLost, match="crashes the process"):
        shared.run(b"job", LONG_SECONDS)
    shared._process._module = ECHOING
    for clock.now in (1.0, 2.0, 3.0, 4.0):
        with pytest.raises(WorkerLost, match="died twice"):
            shared.run(b"job", LONG_SECONDS)
    clock.now = 5.0
    assert shared.run(b"job", LONG_SECONDS) == b"job"


def test_a_process_that_cannot_be_started_is_not_started_for_each_request(shared: SharedProcess, clock: Clock) -> None:
    shared._process._module = "no_such_module"
    with pytest.raises(OSError, match="a new process does not answer"):
        shared.run(b"job", LONG_SECONDS)
    shared._process._module = ECHOING
    for clock.now in (1.0, 2.0, 3.0, 4.0):
        with pytest.raises(WorkerLost, match="no process can be started for it"):
            shared.run(b"job", LONG_SECONDS)
    clock.now = 5.0
    assert shared.run(b"job", LONG_SECONDS) == b"job"


def test_a_process_that_is_to_end_while_it_starts_is_killed(
    shared: SharedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = process._start

    def start_during_the_end(module: str) -> subprocess.Popen[bytes]:
        started = start(module)
        started.send_signal(signal.SIGSTOP)  # it is never ready
        shared.kill()
        threads.submit(shared.close)
        return started

    monkeypatch.setattr(process, "_start", start_during_the_end)
    monkeypatch.setattr(process, "START_SECONDS", LONG_SECONDS)
    with ThreadPoolExecutor(1) as threads, pytest.raises(CancelledError):
        shared.run(b"job", LONG_SECONDS)


@pytest.mark.parametrize("next_job", [b"long job" * 10_000, b"another job"])
def test_a_question_that_exceeds_a_small_pipe_is_asked_by_a_thread(shared: SharedProcess, next_job: bytes) -> None:
    shared.run(b"job", LONG_SECONDS)
    running = shared._process._process
    assert running is not None and running.stdin is not None
    fcntl.fcntl(running.stdin, fcntl.F_SETPIPE_SZ, 4096)
    assert shared.run_soon(b"long job" * 10_000, LONG_SECONDS) is None
    assert shared.run(next_job, LONG_SECONDS) == next_job
    assert shared.run(b"job", LONG_SECONDS) == b"job"
    assert shared._process._process is running


def test_a_death_and_a_pause_are_logged_once_a_minute(
    shared: SharedProcess, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    shared._process._module = DYING
    warnings = [
        "the echo: its process has died",
        "the echo: its process has died twice; requests that need it are refused for 5 s",
    ]
    for clock.now in (0.0, 1.0, 30.0, 59.0):
        with pytest.raises(WorkerLost):
            shared.run(b"job", LONG_SECONDS)
        assert caplog.messages == warnings
    clock.now = 70.0
    with pytest.raises(WorkerLost):
        shared.run(b"job", LONG_SECONDS)
    assert caplog.messages == warnings * 2


def test_a_death_between_two_jobs_is_logged(shared: SharedProcess, caplog: pytest.LogCaptureFixture) -> None:
    shared.run(b"job", LONG_SECONDS)
    running = shared._process._process
    assert running is not None
    running.kill()
    running.wait()
    assert shared.run(b"job", LONG_SECONDS) == b"job"
    assert caplog.messages == ["the echo: its process has died"]


def test_a_failed_start_is_logged(shared: SharedProcess, caplog: pytest.LogCaptureFixture) -> None:
    shared._process._module = "no_such_module"
    with pytest.raises(OSError):
        shared.run(b"job", LONG_SECONDS)
    (warning,) = caplog.messages
    assert warning.startswith("the echo: no process can be started for it")


def test_the_end_of_a_process_that_is_to_end_is_not_logged(
    shared: SharedProcess, caplog: pytest.LogCaptureFixture
) -> None:
    shared.run(b"job", LONG_SECONDS)
    shared.kill()
    with pytest.raises(CancelledError):
        shared.run(b"job", LONG_SECONDS)
    assert not caplog.messages
