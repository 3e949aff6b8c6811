"""All that the user of `up`, `down` and `logs` sees, in words and in the order of the original program."""

from __future__ import annotations

import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from orchestrator.errors import Problem
from orchestrator.image import step_of

_LINES_OF_A_FAILED_BUILD = 15
_WIDTH_OF_A_STEP = 90
_ENDPOINTS = (
    ("/score", "Score prompts using KV-cache (original)"),
    ("/score_completions", "Score chat completions with template rendering"),
    ("/v1/chat/completions", "Full chat completions with template processing"),
)


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

    def ready(self, url: str, runtime: str, seconds: float) -> None:
        self.step(f"🚀 kvcache is ready! ({runtime}, {seconds:.1f} s)")
        self.step("Available endpoints:")
        for path, meaning in _ENDPOINTS:
            self.step(f"  - POST {url}{path} - {meaning}")

    @contextmanager
    def building(self, image: str, steps: int) -> Iterator[BuildView]:
        """Shows a build while it runs: live on a terminal, line by line elsewhere."""
        self.step(f"Building image {image}...")
        live = self._out.is_terminal and not self._quiet
        progress = Progress(
            SpinnerColumn(),
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._out,
            transient=True,
            disable=not live,
        )
        with progress:
            yield BuildView(self, progress, steps, live=live)


class BuildView:
    """What a build has said so far."""

    def __init__(self, console: Console, progress: Progress, steps: int, *, live: bool) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("", total=steps)
        self._live = live
        self._begun = time.monotonic()
        self._last: deque[str] = deque(maxlen=_LINES_OF_A_FAILED_BUILD)
        self._number = 0
        self._instruction = ""
        self._total = steps

    @property
    def last_lines(self) -> tuple[str, ...]:
        return tuple(self._last)

    @property
    def fetches_base(self) -> bool:
        """Whether the step that it is at fetches an image to build on."""
        return self._instruction.startswith("FROM")

    def said(self, line: str) -> None:
        """Takes a line of the build's output."""
        self._last.append(line)
        if step := step_of(line):
            self._instruction = step.instruction
            self._number = step.number or self._number + 1
            self._total = step.total or self._total
            shown = textwrap.shorten(step.instruction, _WIDTH_OF_A_STEP, placeholder="…")
            self._progress.update(self._task, completed=self._number - 1, total=self._total, description=shown)
            if not self._live:
                self._console.step(f"  step {self._number}/{self._total} ({self._seconds}): {shown}")

    def done(self, tagged: str) -> None:
        self._console.step(f"Successfully tagged {tagged} ({self._seconds})")

    @property
    def _seconds(self) -> str:
        return f"{time.monotonic() - self._begun:.0f} s"
