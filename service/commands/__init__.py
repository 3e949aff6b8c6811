"""The tools of `python -m service` other than `serve`: one module each, imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

TOOLS: Mapping[str, str] = {
    "demonstrate": "play conversations against simulated engines and a running service",
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
    code: int = import_module(f"service.commands.{_MODULES.get(name, name)}").main(arguments, environment)
    return code
