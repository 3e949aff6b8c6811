"""Runs tools of the service half on this host, as a child process of this Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.runtimes.process import install_command, missing_packages, names_of

_PACKAGES = Path(__file__).resolve().parent.parent.parent


def run_tool(name: str, arguments: Sequence[str]) -> int:
    """Runs `python -m service NAME ARGUMENTS` with inherited standard streams; returns its exit code.

    Raises Problem if only the host half is installed.
    """
    if missing := missing_packages():
        raise Problem(
            f"`kvcache {name}` needs the service's half: {names_of(missing)} not installed.",
            install_command(missing),
        )
    found = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
    tool = subprocess.Popen(  # noqa: S603 - this Python
        [sys.executable, "-m", "service", name, *arguments],
        env={**os.environ, "PYTHONPATH": found, "KVCACHE_PROGRAM": "kvcache"},
    )
    # Ctrl+C reaches the tool directly and the tool decides how to exit; SIGTERM reaches only this process.
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: tool.terminate()),
        signal.SIGHUP: signal.signal(signal.SIGHUP, lambda *_: tool.terminate()),
    }
    try:
        code = tool.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
