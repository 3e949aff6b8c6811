"""The tools of `python -m service` beside `serve`, a module each, loaded when they run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

TOOLS: Mapping[str, str] = {
    "offline": "analyse a recording, or score prompts against it",
    "record": "write what engines publish to a file",
    "replay": "publish a recording as its engines did",
    "simulate": "play conversations against simulated engines and a running service",
}


def run_tool(name: str, arguments: list[str], environment: Mapping[str, str]) -> int:
    """Runs one of TOOLS; gives its exit code."""
    code: int = import_module(f"service.commands.{name}").main(arguments, environment)
    return code
