"""The `kvcache` command as a user runs it, for tests that look at what it says, does and leaves behind."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT
from tests.waiting import PATIENCE, reserved_port

# What would change a command's meaning, on the machine of whoever runs the tests.
_OPTIONS = ("KVCACHE_", "HF_", "ZMQ_", "HTTP_PORT", "MODEL_NAME", "POOL_CONCURRENCY", "BLOCK_SIZE", "XDG_")
_KEPT = ("KVCACHE_BASE_IMAGE",)


def is_of_user(variable: str) -> bool:
    """Whether a variable of the environment would change a command's meaning."""
    return variable not in _KEPT and variable.startswith(_OPTIONS)


class Finished(NamedTuple):
    code: int
    output: str
    seconds: float


class Command:
    """A `kvcache` command that runs. Standard output and standard error go into one text, in their order."""

    def __init__(self, folder: Path, root: Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._begun = time.monotonic()
        self._path = folder / f"output-{time.monotonic_ns()}"
        kept = {name: value for name, value in os.environ.items() if not is_of_user(name)}
        with self._path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *arguments],
                env={**kept, "XDG_STATE_HOME": str(folder / "state"), "PYTHONUNBUFFERED": "1", **environment},
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl+C at the terminal of the test runner is not meant for it
            )

    @property
    def output(self) -> str:
        return self._path.read_text()

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Until the command has said this; fails if it ends, or takes longer."""
        wait_until(lambda: text in self.output or self.process.poll() is not None, seconds, lambda: self.output)
        assert text in self.output, self.output

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def finish(self, seconds: float = PATIENCE) -> Finished:
        """Waits for its end."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.output}") from None
        return Finished(self.process.returncode, self.output, time.monotonic() - self._begun)


class Commands:
    """Starts commands of one checkout that share a state folder, and ends what is left of them."""

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder = folder
        self.root = root
        self._started: list[Command] = []

    @property
    def state(self) -> Path:
        return self.folder / "state" / "kvcache"

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Command:
        command = Command(self.folder, self.root, arguments, environment or {})
        self._started.append(command)
        return command

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None, seconds: float = PATIENCE) -> Finished:
        return self.start(*arguments, environment=environment).finish(seconds)

    def close(self) -> None:
        """Ends the commands that still run, as SIGTERM does: a command that is killed cannot end its own child."""
        running = [command.process for command in self._started if command.process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(holds: Callable[[], bool], seconds: float = PATIENCE, told: Callable[[], str] = lambda: "") -> None:
    """Looks until something holds; fails after so many seconds, with what `told` gives."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {told()}"
        time.sleep(0.02)


_HELD = ExitStack()
atexit.register(_HELD.close)


def free_port() -> int:
    """A port as of `reserved_port`, until all tests are over."""
    return _HELD.enter_context(reserved_port())
