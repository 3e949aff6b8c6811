"""Passes variables to the service in a file, so that `inspect` of its container does not show them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "SECRET_ENVIRONMENT"
"""The variable with the path of the file."""


def dump(variables: Mapping[str, str]) -> str:
    """The file's text."""
    return json.dumps(dict(variables))


def load(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the file that the environment names; empty without a file. Raises OSError, ValueError."""
    if not (path := environment.get(VARIABLE)):
        return {}
    return {str(name): str(value) for name, value in json.loads(Path(path).read_text(encoding="utf-8")).items()}
