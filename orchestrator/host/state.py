"""Files that outlive one command: secrets, a child process's record and log, locks of names, ports and builds."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from orchestrator.errors import Problem

_PORTS = "ports"
_BUILDS = "builds"


def state_home() -> Path:
    """The folder of all services, by the XDG base directory specification; not created here.

    If the home folder is read-only (containers, some CI systems): in XDG_RUNTIME_DIR, else in the temporary folder.
    """
    wanted = _candidates()
    return next(filter(_can_write, wanted), wanted[0])


def fallback_state_home() -> Path | None:
    """`state_home()` if the preferred folder is not writable and another one is used."""
    chosen = state_home()
    return chosen if chosen != _candidates()[0] else None


def _candidates() -> list[Path]:
    state = os.environ.get("XDG_STATE_HOME")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [
        (Path(state) if state else Path.home() / ".local" / "state") / "kvcache",
        *([Path(runtime) / "kvcache"] if runtime else []),
        Path(tempfile.gettempdir()) / f"kvcache-{os.getuid()}",
    ]


def _can_write(folder: Path) -> bool:
    """Whether this user can write the folder, or its first parent that exists."""
    there = next(path for path in (folder, *folder.parents) if path.exists() or path == path.parent)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return False
    # In a world-writable folder, another user may have created it.
    return there != folder or there.stat().st_uid == os.getuid()


def service_folder(runtime: str, name: str) -> Path:
    """The folder of one service; not created here."""
    return state_home() / runtime / name


def make_service_folder(runtime: str, name: str) -> Path:
    """The folder of one service, accessible only to this user. Raises Problem."""
    folder = service_folder(runtime, name)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    return folder


def discovered_folder(runtime: str, name: str) -> Path:
    """The folder in which a service finds the engines that `kvcache discover` sees; not created here."""
    return service_folder(runtime, name) / "discovered"


def make_discovered_folder(runtime: str, name: str) -> Path:
    """Makes the folder of discovered engines, which the service's user may read. Raises Problem."""
    make_service_folder(runtime, name)
    folder = discovered_folder(runtime, name)
    with _writing(folder):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    return folder


def service_folders(runtime: str) -> list[str]:
    """Names of a runtime's services that have a folder."""
    return sorted(path.name for path in (state_home() / runtime).glob("*") if path.is_dir())


@contextmanager
def claim(runtime: str, name: str) -> Iterator[None]:
    """Locks the name: one process of this user at a time starts it. Raises Problem if another holds the lock."""
    busy = Problem(
        f"Another `kvcache up` is starting a service named {name}.", "Wait for it, or choose another --name."
    )
    with _locked(state_home() / runtime / f"{name}.lock", busy):
        yield


@contextmanager
def claim_following(runtime: str, name: str) -> Iterator[None]:
    """Locks the service's discovery of containers. Raises Problem if another process holds the lock."""
    busy = Problem(f"The containers are followed already for {name}.", "Nothing needs to be done.")
    with _locked(service_folder(runtime, name) / "discover.lock", busy):
        yield


@contextmanager
def claim_ports(ports: Iterable[int], free: Callable[[int], int]) -> Iterator[None]:
    """Locks the ports, so that one process of this user at a time uses them. Raises Problem if another holds the lock.

    `free` suggests a free port instead of a taken one.
    """
    with ExitStack() as stack:
        for port in sorted(ports):
            busy = Problem(
                f"Another `kvcache up` is starting a service on port {port}.",
                f"Wait for it, or choose another port: kvcache up --port {free(port)}",
            )
            stack.enter_context(_locked(state_home() / _PORTS / f"{port}.lock", busy))
        yield


@contextmanager
def claim_build() -> Iterator[Callable[[], bool]]:
    """Notes that this process builds an image.

    Yields a function that tells whether no other process of this user builds one; while it does so, new builds wait.
    """
    path = state_home() / _BUILDS / "build.lock"
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path, fcntl.LOCK_SH) as file:

        def is_alone() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            yield is_alone
        finally:
            if is_alone():
                path.unlink(missing_ok=True)


def remove_stale_locks() -> None:
    for path in state_home().glob("*/*.lock"):
        with suppress(Problem), _locked(path, Problem("", "")):
            pass


@contextmanager
def _locked(path: Path, busy: Problem) -> Iterator[None]:
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path, busy):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(path: Path, busy: Problem) -> IO[bytes]:
    try:
        return _opened(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None


def _opened(path: Path, lock: int) -> IO[bytes]:
    """The locked file. Raises BlockingIOError."""
    while True:
        with _writing(path):
            file = path.open("wb")
        try:
            fcntl.flock(file, lock)
        except BlockingIOError:
            file.close()
            raise
        # The previous holder may have removed the file in the meantime.
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Problem(
            f"{path} cannot be written: {error.strerror or error}.",
            "Name a folder that can, in XDG_STATE_HOME; what a service needs between commands is kept there.",
        ) from error


def forget_service(runtime: str, name: str) -> None:
    shutil.rmtree(service_folder(runtime, name), ignore_errors=True)
