"""The commands that Podman's generator makes of units."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
from pathlib import Path


def command_of(quadlet: str, folder: Path, name: str) -> list[str]:
    """The words of the command that starts the container of `name`.container, whose folder has all units."""
    made = subprocess.run(
        [quadlet, "-dryrun", "-user"],
        env={**os.environ, "QUADLET_UNIT_DIRS": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(made.split(f"---{name}.service---\n")[1].split("\n---")[0])
    return shlex.split(unit["Service"]["ExecStart"])
