"""Prints steps, warnings and problems. The words stand in the commands that print them."""

from __future__ import annotations

import sys

from rich.console import Console as Terminal

from orchestrator.errors import Problem


class Console:
    """Steps go to standard output (not with `quiet`), warnings and errors to standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._out = Terminal(highlight=False, emoji=False, soft_wrap=True, quiet=quiet)
        self._err = Terminal(stderr=True, highlight=False, emoji=False, soft_wrap=True)

    def step(self, text: str) -> None:
        """Something begins, or has come out well."""
        self._out.print(text, markup=False)

    def warn(self, text: str, remedy: str = "") -> None:
        self._err.print(f"Warning: {text}", style="yellow", markup=False)
        if remedy:
            self._err.print(f"  {remedy}", markup=False)

    def problem(self, problem: Problem) -> None:
        """One line that says what went wrong and one that says what to do, below what led to it."""
        for line in problem.details:
            self._err.print(f"  | {line}", markup=False)
        self._err.print(f"Error: {problem.what}", style="bold red", markup=False)
        self._err.print(f"  {problem.remedy}", markup=False)

    def line(self, text: str) -> None:
        """A line of a service's log, as it is."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    @property
    def live(self) -> Terminal | None:
        """The terminal for a live view; None in a pipe, and with `quiet`."""
        return self._out if self._out.is_terminal and not self._quiet else None
