"""The owner of a running service: the `kvcache up` process in the foreground, or none (detached)."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Self

import psutil

_CLOCK_DRIFT = 2.0  # tolerance in seconds: a process's start time shifts when the clock is set


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, identified by pid and start time so that a reused pid is not mistaken for it."""

    host: str
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Self:
        return cls(platform.node(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parses the result of `str()`; None for any other text."""
        try:
            host, pid, started = text.rsplit("/", 2)
            return cls(host, int(pid), float(started))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.started:.2f}"

    @property
    def lives(self) -> bool:
        """Whether the process still runs; assumed for a process of another machine."""
        return self.host != platform.node() or process(self.pid, self.started) is not None


def process(pid: int, started: float) -> psutil.Process | None:
    """The process with this pid, if it still runs and started at that time (Unix seconds)."""
    try:
        found = psutil.Process(pid)
        if abs(found.create_time() - started) < _CLOCK_DRIFT and found.status() != psutil.STATUS_ZOMBIE:
            return found
    except psutil.NoSuchProcess:
        pass
    return None
