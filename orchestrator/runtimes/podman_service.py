"""Serves Podman's API with a child process of ours for as long as it is needed.

Most machines have the `podman` command, but no process that listens on its API socket.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtimes import tether
from orchestrator.runtimes.podman_leftovers import make_folder, remove_dead_folders

_SOCKET = "podman.sock"
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_END_OF_BUILD_SECONDS = 30.0  # longer than writing a layer takes


class PodmanService:
    """`podman system service` on a private socket; exits with this process even if we are killed."""

    def __init__(self) -> None:
        remove_dead_folders()
        self._folder = make_folder()
        self._socket = self._folder / _SOCKET
        self._output = self._folder / "output"
        self._process = self._start()
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.close()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        command = ["podman", "system", "service", "--time=0", f"unix://{self._socket}"]
        with self._output.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-IS", tether.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # Killed builds leave folders here; they are removed with ours.
                env={**os.environ, "TMPDIR": str(self._folder)},
            )

    def revive(self) -> None:
        """Restarts it if it has exited. Raises RuntimeUnavailable."""
        if self._process.poll() is not None:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._socket.unlink(missing_ok=True)
            self._process = self._start()
            self._wait_until_it_listens()

    @property
    def url(self) -> str:
        return f"http+unix://{self._socket}"

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(self._socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._output.read_text(errors="replace").strip().splitlines()
                raise RuntimeUnavailable(
                    f"Podman's API does not start: {said[-1] if said else 'it says nothing'}",
                    "Run `podman info`, which shows the same; or choose another runtime with --runtime.",
                )
            time.sleep(0.01)

    def end_build(self, output: threading.Thread) -> None:
        """Stops a build; returns when the thread that reads its output has ended.

        Podman's API cannot stop a build: 4.3 keeps a step running after the client disconnects, then panics. So the
        build's processes are killed until it fails and cleans up. If it does not fail, the API process is killed, which
        must not happen while it writes an image: a broken one would be left.
        """
        deadline = time.monotonic() + _END_OF_BUILD_SECONDS
        steps: set[psutil.Process] = set()
        output.join(0.05)
        while output.is_alive():
            with suppress(psutil.NoSuchProcess):
                steps.update(psutil.Process(self._process.pid).children(recursive=True))
            _kill_innermost(steps)
            if time.monotonic() > deadline:
                self._process.kill()
            output.join(0.05)
        _kill_innermost(steps)

    def close(self) -> None:
        """Stops the API and removes its socket."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _kill_innermost(processes: Iterable[psutil.Process]) -> None:
    """Kills the processes that have no children; call again for their parents."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            # A running process could fork between the listing and the kill, and leave the child behind.
            process.suspend()
            if process.children():
                process.resume()
            else:
                process.kill()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
