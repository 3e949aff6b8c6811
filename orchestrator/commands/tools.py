"""Runs tools of the service half on this host, as a child process of this Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from orchestrator.errors import Problem
from orchestrator.runtimes.process import install_command, missing_packages, names_of

_PACKAGES = Path(__file__).resolve().parent.parent.parent


def run_tool(name: str, arguments: Sequence[str]) -> NoReturn:
    """Becomes `python -m service NAME ARGUMENTS`, so that whoever ends this process ends the tool. Never returns.

    Raises Problem if only the host half is installed, unless help is asked for.
    """
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    if (missing := missing_packages()) and not asks_for_help:
        raise Problem(
            f"`kvcache {name}` needs the service's half: {names_of(missing)} not installed.",
            install_command(),
        )
    found = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": found, "KVCACHE_PROGRAM": "kvcache"}
    sys.stdout.flush()
    # -P: a folder named `service` in the working directory is not ours.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "service", name, *arguments], environment)  # noqa: S606
