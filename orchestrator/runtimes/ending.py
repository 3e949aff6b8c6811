"""The reason why a service exited, as a message."""

from __future__ import annotations

import signal

from orchestrator.errors import Problem
from orchestrator.runtimes.base import Service


def ending(service: Service, title: str, when: str, last_lines: tuple[str, ...]) -> Problem:
    """The problem of a service that exited on its own; `title` is the subject of the message."""
    if service.out_of_memory:
        return Problem(
            f"{title} ended {when}: out of memory.", "Give it more with --memory, or leave that out.", last_lines
        )
    lines = "Its last lines are above; " if last_lines else ""
    number = _signal(service.exit_code)
    if number is signal.SIGKILL:
        return Problem(
            f"{title} was killed {when} (SIGKILL).",
            _sentence(f"{lines}the kernel does that when memory runs out: see --memory, and the kernel's log."),
            last_lines,
        )
    code = service.exit_code
    how = f"was ended {when} by {number.name}" if number else f"ended {when}, with {_code(code)}"
    return Problem(f"{title} {how}.", f"{lines}`kvcache doctor` looks for usual causes.", last_lines)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _code(code: int | None) -> str:
    return "an unknown exit code" if code is None else f"code {code}"


def _signal(code: int | None) -> signal.Signals | None:
    """The signal in an exit code of Python (negative) or a shell (128 and more)."""
    if code is None or -1 < code < 129:
        return None
    try:
        return signal.Signals(-code if code < 0 else code - 128)
    except ValueError:
        return None
