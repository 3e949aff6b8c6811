"""Checks the layout of --models-dir."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FILES_OF_A_MODEL = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json")
_SHOWN = 3


class Objection(NamedTuple):
    """A mistake in the folder that hides a model from the service."""

    what: str
    remedy: str


def objections(folder: Path, *, mounted: bool) -> Iterator[Objection]:
    """Reasons why models in the folder would not be found; `mounted`: the service sees only this folder."""
    models = [path for path in sorted(folder.glob("*/*")) if _is_model(path)]
    if not models:
        yield _without_models(folder)
    elif mounted:
        linked = [str(path.relative_to(folder)) for model in models for path in _leading_out(model, folder)]
        if linked:
            more = f" and {len(linked) - _SHOWN} more" if len(linked) > _SHOWN else ""
            yield Objection(
                f"--models-dir: {', '.join(linked[:_SHOWN])}{more} in {folder} link to files outside of it, which the "
                "container does not see.",
                f"Copy the files: cp -rL {folder} OTHER, and --models-dir OTHER; or use --hf-cache.",
            )


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


def _leading_out(model: Path, folder: Path) -> Iterator[Path]:
    """Symbolic links to the outside: the model's folder itself, or files in it."""
    inside = folder.resolve()
    if not model.resolve().is_relative_to(inside):
        yield model
        return
    yield from (path for path in sorted(model.iterdir()) if not path.resolve().is_relative_to(inside))
