"""kvcache.toml: options of the commands in a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError

DEFAULT_FILE = Path("kvcache.toml")


def default_map(
    file: Path | None,
    options: Mapping[str, frozenset[str]],
    lists: Set[str] = frozenset(),
    *,
    refuse_unknown: bool = True,
) -> dict[str, dict[str, Any]]:
    """Reads the file's values for each command; `options` maps each command to its option names.

    Options in `lists` may be repeated: their value is a list, or a single one of it.
    The default file is kvcache.toml in the working directory, if it exists. A key is an option name without
    dashes (`publish-address = "0.0.0.0"`); the table `env` holds settings of the service. Raises UsageError, for a
    key that no command has only with `refuse_unknown`.
    """
    path = file or DEFAULT_FILE
    if file is None and not path.is_file():
        return {}
    values = {name.replace("-", "_"): value for name, value in _read(path).items()}
    if isinstance(values.get("env"), dict):
        values["env"] = [f"{name}={value}" for name, value in values["env"].items()]
    values |= {name: [value] for name, value in values.items() if name in lists and not isinstance(value, list)}
    known = frozenset[str]().union(*options.values())
    for name in values.keys() - known if refuse_unknown else ():
        similar = get_close_matches(name, known, 1)
        hint = f"Did you mean {similar[0].replace('_', '-')}?" if similar else "kvcache up --help lists the options."
        raise UsageError(f"{path}: {name.replace('_', '-')} is not an option.", hint)
    return {
        command: {name: value for name, value in values.items() if name in names} for command, names in options.items()
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "It must be a TOML file of options.") from error
