"""Files of this machine that a container reads, and follows when they change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.runtimes.base import Mount

_FOLDER = "/run/files"


@dataclass(frozen=True, slots=True)
class MountedFile:
    """A file's option, its path inside the container, and the mount that brings it there."""

    option: str
    path: str
    mount: Mount


def mounted_files(files: Iterable[tuple[str, Path]]) -> tuple[MountedFile, ...]:
    """Mounts folders, and the folder of each file: a mounted file stays the old one when a new file takes its name.

    Raises UsageError for a link out of its folder, which leads nowhere inside the container.
    """
    return tuple(mounted_file(option, file, option.removeprefix("--")) for option, file in files)


def mounted_file(option: str, file: Path, place: str) -> MountedFile:
    """As `mounted_files`, in a folder of the container with the name `place`."""
    file = file.absolute()
    target = f"{_FOLDER}/{place}"
    if file.is_dir():
        return MountedFile(option, target, Mount(file.resolve(), target, read_only=True))
    folder = file.parent.resolve()
    if not file.resolve().is_relative_to(folder):
        raise UsageError(
            f"{option}: {file} is a link to {file.resolve()}, which a container does not see.",
            "Name a copy, which a deploy hook of certbot may replace, or use --runtime process.",
        )
    return MountedFile(option, f"{target}/{file.name}", Mount(folder, target, read_only=True))
