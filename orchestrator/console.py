"""Prints steps, warnings and problems. The commands hold the texts."""

from __future__ import annotations

import sys

from rich.console import Console as Terminal

from orchestrator.errors import Problem

_WIDTH_OF_A_PIPE = 1000  # wide enough that no line is wrapped or cut there


def terminal() -> Terminal:
    """Standard output for tables. In a pipe, lines are as long as their text."""
    found = Terminal(highlight=False, emoji=False, soft_wrap=False)
    return found if found.is_terminal else Terminal(highlight=False, emoji=False, width=_WIDTH_OF_A_PIPE)


class Console:
    """Steps go to standard output (suppressed by `quiet`), warnings and errors to standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._out = Terminal(highlight=False, emoji=False, soft_wrap=True, quiet=quiet)
        self._err = Terminal(stderr=True, highlight=False, emoji=False, soft_wrap=True)

    def step(self, text: str) -> None:
        """Prints the start or the success of a step."""
        self._out.print(text, markup=False)

    def warn(self, text: str, remedy: str = "") -> None:
        self._err.print(f"Warning: {text}", style="yellow", markup=False)
        if remedy:
            self._err.print(f"  {remedy}", markup=False)

    def problem(self, problem: Problem) -> None:
        """Prints the details, then one line with the problem and one with the remedy."""
        for line in problem.details:
            self._err.print(f"  | {line}", markup=False)
        self._err.print(f"Error: {problem.what}", style="bold red", markup=False)
        self._err.print(f"  {problem.remedy}", markup=False)

    def line(self, text: str) -> None:
        """Prints a line of a service's log unchanged."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    @property
    def live(self) -> Terminal | None:
        """The terminal for a live view; None in a pipe or with `quiet`."""
        return self._out if self._out.is_terminal and not self._quiet else None
