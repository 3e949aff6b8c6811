"""Where the host keeps what must outlive one command: a service's token file, a child process's record and log."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from orchestrator.errors import Problem


def state_home() -> Path:
    """The folder of all services, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "kvcache"


def service_folder(runtime: str, name: str) -> Path:
    """A service's own folder; not made here."""
    return state_home() / runtime / name


def make_service_folder(runtime: str, name: str) -> Path:
    """A service's own folder, made so that nobody but the user can enter."""
    folder = service_folder(runtime, name)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


@contextmanager
def claim(runtime: str, name: str) -> Iterator[None]:
    """Lets one process of this user at a time start a service of that name; raises Problem if another is at it."""
    path = state_home() / runtime / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, name):
        try:
            yield
        finally:
            path.unlink()


def _locked(path: Path, name: str) -> IO[bytes]:
    while True:
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Problem(
                f"Another `kvcache up` is starting a service named {name}.", "Wait for it, or choose another --name."
            ) from None
        # Whoever had it before may have removed the file in between.
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def forget_service(runtime: str, name: str) -> None:
    """Removes a service's folder, if there is one."""
    shutil.rmtree(service_folder(runtime, name), ignore_errors=True)
