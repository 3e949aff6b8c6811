"""Where the host keeps what must outlive one command: a service's token file, a child process's record and log."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def state_home() -> Path:
    """The folder of all services, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "kvcache"


def service_folder(engine: str, name: str) -> Path:
    """A service's own folder; not made here."""
    return state_home() / engine / name


def make_service_folder(engine: str, name: str) -> Path:
    """A service's own folder, made so that nobody but the user can enter."""
    folder = service_folder(engine, name)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def forget_service(engine: str, name: str) -> None:
    """Removes a service's folder, if there is one."""
    shutil.rmtree(service_folder(engine, name), ignore_errors=True)
