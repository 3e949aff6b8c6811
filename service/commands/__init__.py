"""The tools of `python -m service` other than `serve`: one module each, imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module

TOOLS: Mapping[str, str] = {
    "demonstrate": "play conversations against simulated engines and a running service",
    "examine": "ask engines for what stops or spoils their predictions",
    "listen": "print what engines publish, for a few seconds",
    "offline": "analyse a recording, or score prompts against it",
    "parity": "compare our tokens with those of an engine",
    "record": "record the events of engines in a file",
    "sbom": "print what this installation or image is made of",
    "replay": "publish a recording as its engines did",
    "simulate": "run simulated engines",
}
_MODULES = {"replay": "playback"}
"""Modules that are not named after their tool."""


def run_tool(name: str, arguments: list[str], environment: Mapping[str, str]) -> int:
    """The tool's exit code; 1 with a sentence if a package that it needs is not installed."""
    try:
        tool = import_module(f"service.commands.{_MODULES.get(name, name)}")
    except ModuleNotFoundError as error:
        print(f"{name}: not installed here: {error.name}. Run: pip install 'kvcache[service]'", file=sys.stderr)  # noqa: T201
        return 1
    code: int = tool.main(arguments, environment)
    return code
