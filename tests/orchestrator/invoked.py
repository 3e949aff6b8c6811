"""`kvcache` in this process: without the start of a Python, where no process is the point."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from tests.command import is_of_user


class Invoked(NamedTuple):
    code: int
    output: str


class Invoker:
    """Runs commands that end, with a state folder of the test's own and nothing of this shell's options."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Invoked:
        """Runs a command; its exception is the test's, unless it is the exit."""
        with pytest.MonkeyPatch.context() as patch:
            for name in filter(is_of_user, list(os.environ)):
                patch.delenv(name)
            for name, value in {"XDG_STATE_HOME": str(self.state), **(environment or {})}.items():
                patch.setenv(name, value)
            result = CliRunner().invoke(app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Invoked(result.exit_code, result.output)
