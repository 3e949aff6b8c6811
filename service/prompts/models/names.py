"""Finds the tokenizer of a name that requests use, which may be an alias or a path of the engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from service.prompts.models.file_names import TOKENIZERS

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
_HUB_NAME = re.compile(rf"{_PART}(?:/{_PART})?")
_HUB_CACHE = re.compile(r"(?:^|/)models--(?P<name>.+?)/snapshots/[^/]+/?$")
_MAX_ROOT = 1024
"""Characters of a name or path; longer ones are of no use."""


class Source(NamedTuple):
    """Where a model's files are: a folder, or a name of the hub. `name` may also be an alias without files."""

    name: str
    folder: Path | None = None

    @property
    def is_on_hub(self) -> bool:
        """Whether the hub may have a model of that name."""
        return self.folder is None and is_hub_name(self.name)


class ModelNames:
    """Resolves names: by the operator's aliases, by MODELS_DIR, and by the `root` that a pod's engine gives."""

    def __init__(
        self,
        models_dir: Path,
        aliases: Mapping[str, str] | None = None,
        root_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`aliases` is from names to names of the hub, of MODELS_DIR, or absolute folders."""
        self._models_dir = models_dir
        self._aliases = dict(aliases or {})
        self._root_of = root_of

    def source(self, name: str) -> Source:
        """The source of a name of the operator's; the operator decides before the engine."""
        if (alias := self._aliases.get(name)) is not None:
            return Source(alias, Path(alias) if alias.startswith("/") else self.folder(alias))
        if (folder := self.folder(name)) is not None:
            return Source(name, folder)
        root = self._root_of(name)
        if root and root != name and len(root) <= _MAX_ROOT and (found := self._at_root(root)) is not None:
            return found
        return Source(name)

    def folder(self, name: str) -> Path | None:
        """The folder in MODELS_DIR that has files of that name, if any."""
        if not is_relative(name):
            return None
        folder = self._models_dir / name
        try:
            return folder if folder.is_dir() and any(file.is_file() for file in folder.iterdir()) else None
        except OSError:  # a name that is too long for a file, or a folder that may not be read
            return None

    def _at_root(self, root: str) -> Source | None:
        """The source of what an engine gives as `root`: a hub name, or a path in its own file system."""
        if (cached := _HUB_CACHE.search(root)) is not None:
            root = cached["name"].replace("--", "/")
        if (folder := self.folder(root)) is not None:
            return Source(root, folder)
        if is_hub_name(root):
            return Source(root)
        if "\0" in root:
            return None
        path = Path(root)
        if path.is_absolute() and has_tokenizer(path):
            return Source(root, path)
        for length in (2, 1):
            name = "/".join(part for part in path.parts[-length:] if part != "/")
            if (folder := self.folder(name)) is not None and has_tokenizer(folder):
                return Source(name, folder)
        return None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file that a tokenizer is read from."""
    try:
        return any(any(folder.glob(pattern)) for pattern in TOKENIZERS)
    except OSError:
        return False


def is_hub_name(name: str) -> bool:
    """Whether the hub allows the name (`validate_repo_id`, huggingface_hub 2.4)."""
    return _HUB_NAME.fullmatch(name) is not None and "--" not in name and ".." not in name and not name.endswith(".git")


def is_relative(name: str) -> bool:
    """Whether a name is a path that stays inside a folder."""
    parts = name.split("/")
    return "\0" not in name and len(name) <= _MAX_ROOT and not any(part in ("", ".", "..") for part in parts)
