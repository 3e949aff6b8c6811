"""Reports a command's problem as two lines and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import typer

from orchestrator.errors import Problem, UsageError


def run_command(run: Callable[[], int | None], *, debug: bool) -> None:
    """Runs a command and reports its problem as two lines and an exit code; `run` may return an exit code."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = run()
    except Problem as problem:
        if debug:
            raise
        from orchestrator.console import Console  # noqa: PLC0415 - loaded only for errors

        Console().problem(problem)
        raise typer.Exit(2 if isinstance(problem, UsageError) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader closed the pipe; without this, Python reports the error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        if code:
            raise typer.Exit(code)
