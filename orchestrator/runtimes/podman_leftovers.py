"""Finds builder containers, images and folders of killed `kvcache` builds: Podman never removes these itself."""

from __future__ import annotations

import json
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.host.ownership import Owner
from orchestrator.runtimes.base import CONTENT_LABEL, STAGE_LABEL

OWNER_ARGUMENT = "KVCACHE_OWNER"
"""Build argument with the owner process of a build; the builder writes all arguments into its record."""

_PREFIX = "kvcache-podman-"
_OWNER = "owner"
_BUILDER_SECONDS = 10.0
"""How long a builder may take to end after its build step."""


def make_folder() -> Path:
    """A folder of this process for Podman's API and its builders, on a disk file system."""
    parent = "/var/tmp" if Path("/var/tmp").is_dir() else None  # noqa: S108 - mkdtemp's folder is private
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / _OWNER).write_text(str(Owner.this_process()))
    return folder


def remove_dead_folders() -> None:
    """Removes folders of killed processes, and kills the remaining processes of their builds."""
    for parent in {Path("/var/tmp"), Path(tempfile.gettempdir())}:  # noqa: S108 - touches only folders of this user
        for folder in parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                owner = Owner.parse((folder / _OWNER).read_text())
                if owner is not None and not owner.lives:
                    _end_processes_of(folder)
                    shutil.rmtree(folder, ignore_errors=True)


def _end_processes_of(folder: Path) -> None:
    """Ends the build steps first, so that a builder removes its container itself.

    A builder that is killed while it does so leaves a container without a record, which no later sweep finds.
    """
    builders, steps = [], []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            # The builder and its helpers have the folder as TMPDIR; the build steps are their children.
            if process.environ().get("TMPDIR") == str(folder):
                builders.append(process)
                steps += process.children(recursive=True)
    _kill([step for step in steps if step not in builders])
    _, left = psutil.wait_procs(builders, timeout=_BUILDER_SECONDS)
    _kill([child for builder in left for child in _children(builder)] + left)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def dead_builders(graph_root: Path) -> Iterator[str]:
    """Ids of builder containers, in Podman's storage of this machine, that have no living owner."""
    return (identity for identity, owner in _builders(graph_root) if not owner.lives)


def broken_images(graph_root: Path) -> Iterator[str]:
    """Ids of images of ours that a killed build did not write to the end.

    While there is one, Podman lists no images at all. None while a build of ours runs: it may be writing them.
    """
    if any(owner.lives for _, owner in _builders(graph_root)):
        return
    for index in graph_root.glob("*-images/images.json"):
        driver = index.parent.name.removesuffix("-images")
        images = _read(index)
        ours = {image.get("layer") for image in images if _is_ours(index.parent, image)}
        parents = {layer["id"]: layer.get("parent") for layer in _read(graph_root / f"{driver}-layers" / "layers.json")}
        for image in images:
            layer = image.get("layer")
            # Its own labels may not have been written; then it was made on top of another image of ours.
            if "manifest" not in (image.get("big-data-names") or ()) and not ours.isdisjoint(
                {layer, parents.get(layer)}
            ):
                yield image["id"]


def _is_ours(folder: Path, image: Mapping[str, Any]) -> bool:
    """Whether the configuration of an image, in Podman's folder of images, has our labels."""
    config = f"sha256:{image['id']}"
    labels: set[str] = set()
    with suppress(OSError, ValueError, AttributeError):
        name = f"={b64encode(config.encode()).decode()}"
        labels.update((json.loads((folder / image["id"] / name).read_text())["config"].get("Labels") or {}).keys())
    return not labels.isdisjoint({CONTENT_LABEL, STAGE_LABEL})


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text()))
    except (OSError, ValueError):
        return []


def _builders(graph_root: Path) -> Iterator[tuple[str, Owner]]:
    """Ids and owners of the builder containers of our builds."""
    for record in graph_root.glob("*-containers/*/userdata/buildah.json"):
        with suppress(OSError, ValueError):
            owner = _owner(json.loads(record.read_text()))
            if owner is not None:
                yield record.parent.parent.name, owner


def _owner(record: Mapping[str, Any]) -> Owner | None:
    """The owner of a builder; None for a builder that is not ours."""
    text = (record.get("Args") or {}).get(OWNER_ARGUMENT)
    return Owner.parse(text) if text else None
