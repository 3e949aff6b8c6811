"""Chooses the user of the service in a container, which must be able to use the mounted folders of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Problem

UNPRIVILEGED_UID = 10001  # the image's user
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """`user` is uid:gid inside; `as_caller` asks a rootless Podman to map that user to the caller outside (keep-id)."""

    user: str = f"{UNPRIVILEGED_UID}:{UNPRIVILEGED_UID}"
    as_caller: bool = False


def identity(
    *,
    rootless: bool,
    keeps_id: bool,
    hf_cache: Path | None,
    state_dir: Path | None = None,
    caller: int | None = None,
) -> Identity:
    """The image's unprivileged user, or the folders' owner if the service must write into folders of this machine.

    Creates the folders if they do not exist. `keeps_id`: the runtime can map a user inside to the caller. `caller` is a
    uid, by default this process's. Raises Problem where no unprivileged user can write.
    """
    folders = {"--hf-cache": hf_cache, "--state-dir": state_dir}
    written = {option: folder for option, folder in folders.items() if folder is not None}
    if not written:
        return Identity()
    caller = os.geteuid() if caller is None else caller
    for folder in written.values():
        folder.mkdir(parents=True, exist_ok=True)
    if rootless:
        # In a rootless runtime, root maps to the caller; other container uids map to unowned host uids.
        return Identity(as_caller=True) if keeps_id else Identity(user="0:0")
    if caller != _ROOT:
        return Identity(user=f"{caller}:{os.getegid()}")
    return _owner(written)


def _owner(folders: Mapping[str, Path]) -> Identity:
    """The unprivileged user who can write all folders, given by option; empty folders of root are given away."""
    empty = [folder for folder in folders.values() if folder.stat().st_uid == _ROOT and not any(folder.iterdir())]
    owners: set[tuple[int, int]] = set()
    for option, folder in folders.items():
        if folder in empty:
            continue
        owner = folder.stat()
        if owner.st_uid == _ROOT:
            raise Problem(
                f"{option}: {folder} belongs to root, and the service is unprivileged and cannot write there.",
                f"Give it away: chown -R {UNPRIVILEGED_UID}:{UNPRIVILEGED_UID} {folder} ; "
                "or leave the option out to use a volume.",
            )
        owners.add((owner.st_uid, owner.st_gid))
    if len(owners) > 1:
        raise Problem(
            f"{' and '.join(folders)}: the folders belong to different users, and the service runs as one.",
            "Give them to one user.",
        )
    uid, gid = next(iter(owners), (UNPRIVILEGED_UID, UNPRIVILEGED_UID))
    for folder in empty:
        os.chown(folder, uid, gid)
    return Identity(user=f"{uid}:{gid}")


def refuse_unreadable(path: Path) -> None:
    """Raises Problem if only the owner can read a folder or file of models: the service runs as another user."""
    wanted = 0o005 if path.is_dir() else 0o004
    if path.stat().st_mode & wanted != wanted:
        raise Problem(
            f"--models-dir: {path} is closed to other users, and the service runs as one.",
            f"Open it for reading: chmod -R o+rX {path}",
        )


def reader_of(files: Iterable[Path], *, rootless: bool, keeps_id: bool, caller: int | None = None) -> Identity:
    """The image's unprivileged user, or the caller if only they can read the files. Raises Problem for root's files."""
    closed = [file for file in files if not _is_readable(file)]
    if not closed:
        return Identity()
    caller = os.geteuid() if caller is None else caller
    if rootless:
        return Identity(as_caller=True) if keeps_id else Identity(user="0:0")
    if caller != _ROOT:
        return Identity(user=f"{caller}:{os.getegid()}")
    raise Problem(
        f"{closed[0]} is closed to other users, and the service runs as one.",
        f"Give it to that user: chown {UNPRIVILEGED_UID} {closed[0]}",
    )


def _is_readable(file: Path) -> bool:
    """Whether the image's user can read a file and its folder, as far as their modes tell."""

    def allows(path: Path, bits: int) -> bool:
        status = path.stat()
        if status.st_uid == UNPRIVILEGED_UID:
            bits <<= 6
        elif status.st_gid == UNPRIVILEGED_UID:
            bits <<= 3
        return status.st_mode & bits == bits

    return allows(file, 0o4) and allows(file.absolute().parent, 0o1)
