"""The layout of --models-dir, and the mounts that let a container see its models, with links followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_FILES_OF_A_MODEL = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json")
_SHOWN = 3
_MODEL = 2  # the level of models: models folder, organization, model
_LEVELS = 3  # the files of a model; below are only those of folders such as additional_chat_templates
_MOST_STEPS = 1000  # of a path with its links; more are a circle


class Objection(NamedTuple):
    """A mistake in the folder that hides a model from the service."""

    what: str
    remedy: str


class Part(NamedTuple):
    """A folder or file without links, and its place relative to the models folder."""

    source: Path
    place: PurePosixPath


def parts(folder: Path) -> list[Part]:
    """The folders and files to mount so that a container sees all models of the folder.

    This is the folder itself, unless links in it lead out of it, as they do in the hub's cache. Then it is every
    organization, model or file whose own links, if any, do not lead out of it.
    """
    return list(_parts(folder, PurePosixPath(), 0))


def objections(folder: Path) -> Iterator[Objection]:
    """Reasons why models in the folder would not be found."""
    if not any(map(_is_model, folder.glob("*/*"))):
        yield _without_models(folder)
    broken = [path for path in _entries(folder) if path.is_symlink() and not path.exists()]
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        shown = ", ".join(f"{path.relative_to(folder)} -> {path.readlink()}" for path in broken[:_SHOWN])
        yield Objection(
            f"--models-dir: links in {folder} lead to nothing: {shown}{more}.", "Remove them, or restore their targets."
        )


def _entries(folder: Path) -> Iterator[Path]:
    """Organizations, models, and the files of models."""
    for pattern in ("*", "*/*", "*/*/*"):
        yield from sorted(folder.glob(pattern))


def _without_models(folder: Path) -> Objection:
    if _is_model(folder):
        return Objection(
            f"--models-dir: {folder} holds the files of one model; expected is a folder of models.",
            f"Name {folder.parent.parent}, where the model is {folder.parent.name}/{folder.name}.",
        )
    if any(folder.glob("models--*")) or any(folder.glob("hub/models--*")):
        return Objection(
            f"--models-dir: {folder} is a cache of the hub.", "Use --hf-cache, and the folder above `hub`."
        )
    if any(_is_model(path) for path in folder.glob("*")):
        return Objection(
            f"--models-dir: the models in {folder} have no organization.",
            "Put each into a folder of its organization: DIR/<org>/<name>/tokenizer.json",
        )
    return Objection(f"--models-dir: {folder} holds no model.", "Expected: DIR/<org>/<name>/tokenizer.json")


def _is_model(path: Path) -> bool:
    return any((path / name).exists() for name in _FILES_OF_A_MODEL)


def _parts(path: Path, place: PurePosixPath, level: int) -> Iterator[Part]:
    """`level` is 0 for the models folder, 1 for an organization, 2 for a model, and more inside a model."""
    if not path.exists():
        return
    source = path.resolve()
    if not source.is_dir() or level > _LEVELS or not _leads_out(source, _LEVELS - level):
        yield Part(source, place)
        return
    is_inside_model = level >= _MODEL or _is_model(source)
    for child in sorted(source.glob("*")):
        if is_inside_model or _is_model(child) or any(map(_is_model, child.glob("*"))):
            yield from _parts(child, place / child.name, level + 1)


def _leads_out(folder: Path, levels: int) -> bool:
    """Whether a link in the folder or in `levels` levels below leads to something outside."""
    links = (path for level in range(levels + 1) for path in folder.glob("/".join("*" * (level + 1))))
    return any(path.is_symlink() and path.exists() and not _stays_inside(path, folder) for path in links)


def _stays_inside(path: Path, folder: Path) -> bool:
    """Whether the path leads to the same file where only the folder is seen, at another place (no absolute links)."""
    rest, at = list(path.relative_to(folder).parts), folder
    for _ in range(_MOST_STEPS):
        if not rest:
            return True
        following = Path(os.path.normpath(at / rest.pop(0)))  # `at` has no links, so that .. is its parent
        if not following.is_relative_to(folder):
            return False
        if following.is_symlink():
            target = following.readlink()
            if target.is_absolute():
                return False
            rest = [*target.parts, *rest]
        else:
            at = following
    return False
