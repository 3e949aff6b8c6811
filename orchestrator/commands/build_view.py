"""The progress of a build: a live bar on a terminal, one line per step elsewhere."""

from __future__ import annotations

import textwrap
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from orchestrator.console import Console
from orchestrator.image import step_of

_LINES_OF_A_FAILED_BUILD = 15
_WIDTH_OF_A_STEP = 90


@contextmanager
def building(console: Console, image: str, steps: int) -> Iterator[BuildView]:
    """Shows a running build; `steps` is the expected number of steps."""
    console.step(f"Building image {image}...")
    progress = Progress(
        SpinnerColumn(),
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console.live,
        transient=True,
        disable=console.live is None,
    )
    with progress:
        yield BuildView(console, progress, steps)


class BuildView:
    """Collects the output of one build line by line."""

    def __init__(self, console: Console, progress: Progress, steps: int) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("", total=steps)
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
        """Whether the current step pulls a base image."""
        return self._instruction.startswith("FROM")

    def said(self, line: str) -> None:
        self._last.append(line)
        if step := step_of(line):
            self._instruction = step.instruction
            self._number = step.number or self._number + 1
            self._total = step.total or self._total
            shown = textwrap.shorten(step.instruction, _WIDTH_OF_A_STEP, placeholder="…")
            self._progress.update(self._task, completed=self._number - 1, total=self._total, description=shown)
            if self._console.live is None:
                self._console.step(f"  step {self._number}/{self._total} ({self._seconds}): {shown}")

    def done(self, tagged: str) -> None:
        self._console.step(f"Successfully tagged {tagged} ({self._seconds})")

    @property
    def _seconds(self) -> str:
        return f"{time.monotonic() - self._begun:.0f} s"
