"""Builder containers and folders of builds whose `kvcache` was killed: Podman never removes these by itself."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.host.ownership import Owner

OWNER_ARGUMENT = "KVCACHE_OWNER"
"""Build argument that names the process a build belongs to; the builder writes all arguments into its record."""

_PREFIX = "kvcache-podman-"
_OWNER = "owner"


def make_folder() -> Path:
    """A folder of this process for Podman's API and its builders, on a file system that is not in memory."""
    parent = "/var/tmp" if Path("/var/tmp").is_dir() else None  # noqa: S108 - mkdtemp's folder is closed to others
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / _OWNER).write_text(str(Owner.this_process()))
    return folder


def remove_dead_folders() -> None:
    """Removes folders of processes that were killed, and ends what their builds still run."""
    for parent in {Path("/var/tmp"), Path(tempfile.gettempdir())}:  # noqa: S108 - only folders of this user are touched
        for folder in parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                owner = Owner.parse((folder / _OWNER).read_text())
                if owner is not None and not owner.lives:
                    _end_processes_of(folder)
                    shutil.rmtree(folder, ignore_errors=True)


def _end_processes_of(folder: Path) -> None:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            # The builder and what it starts have the folder as TMPDIR; the steps of a build are their children.
            if process.environ().get("TMPDIR") == str(folder):
                for one in [*process.children(recursive=True), process]:
                    with suppress(psutil.Error):
                        one.kill()


def dead_builders(graph_root: Path) -> Iterator[str]:
    """Ids of builder containers, in Podman's storage of this machine, whose owner is gone."""
    for record in graph_root.glob("*-containers/*/userdata/buildah.json"):
        with suppress(OSError, ValueError):
            owner = _owner(json.loads(record.read_text()))
            if owner is not None and not owner.lives:
                yield record.parent.parent.name


def _owner(record: Mapping[str, Any]) -> Owner | None:
    """The owner of a builder; None for one that is not of ours."""
    text = (record.get("Args") or {}).get(OWNER_ARGUMENT)
    return Owner.parse(text) if text else None
