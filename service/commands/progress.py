"""Progress on standard error: one updated line on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
from time import monotonic

_ON_A_TERMINAL, _ELSEWHERE = 0.2, 10.0


class Progress:
    """Shows a status text; with `quiet`, only the last one."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._next = monotonic() + (0 if self._terminal else _ELSEWHERE)
        self._width = 0

    def update(self, text: str) -> None:
        """Shows a status, unless the last one is too recent."""
        if self._quiet or monotonic() < self._next:
            return
        self._next = monotonic() + (_ON_A_TERMINAL if self._terminal else _ELSEWHERE)
        self._show(text, end="" if self._terminal else "\n")

    def finish(self, text: str) -> None:
        self._show(text, end="\n")

    def _show(self, text: str, end: str) -> None:
        start = "\r" if self._terminal else ""
        sys.stderr.write(f"{start}{text.ljust(self._width if self._terminal else 0)}{end}")
        sys.stderr.flush()
        self._width = len(text)
