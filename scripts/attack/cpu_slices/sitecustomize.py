"""Loaded by the attacked service's Python: keeps the longest CPU time of one callback of its event loop in a file.

Other processes of a busy machine do not count, unlike in a client's wait. uvloop's callbacks cannot be measured, so the
service runs on asyncio's own loop.
"""

from __future__ import annotations

import asyncio.events
import os
import sys
from pathlib import Path
from time import thread_time

_FILE = Path(os.environ["CPU_SLICES"])
_LEAST_SECONDS = 0.005

sys.modules["uvloop"] = None  # type: ignore[assignment] # its import fails
_run = asyncio.events.Handle._run


def _measured(handle: asyncio.events.Handle) -> None:
    began = thread_time()
    try:
        _run(handle)
    finally:
        spent = thread_time() - began
        if spent > _LEAST_SECONDS and spent > longest():
            _FILE.write_text(f"{spent:.6f} {handle!r}", encoding="utf-8")


def longest() -> float:
    """The longest CPU time so far, in seconds; the file is removed to start again."""
    try:
        return float(_FILE.read_text(encoding="utf-8").partition(" ")[0] or 0)
    except OSError:
        return 0.0


asyncio.events.Handle._run = _measured  # type: ignore[method-assign, assignment]
