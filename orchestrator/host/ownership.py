"""Whose a running service is: the `kvcache up` that stays in the foreground for it, or nobody's (detached)."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Self

import psutil

_CLOCK_DRIFT = 2.0  # seconds by which the same process's start may read differently after the clock was set


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, named so that another process with its number is not taken for it."""

    host: str
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Self:
        return cls(platform.node(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Reads what `str()` wrote; None for anything else."""
        try:
            host, pid, started = text.rsplit("/", 2)
            return cls(host, int(pid), float(started))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.started:.2f}"

    @property
    def lives(self) -> bool:
        """Whether it still runs; a process of another machine is taken to."""
        return self.host != platform.node() or process(self.pid, self.started) is not None


def process(pid: int, started: float) -> psutil.Process | None:
    """The process with this number, if it is the one that started then (seconds since the epoch) and still runs."""
    try:
        found = psutil.Process(pid)
        if abs(found.create_time() - started) < _CLOCK_DRIFT and found.status() != psutil.STATUS_ZOMBIE:
            return found
    except psutil.NoSuchProcess:
        pass
    return None
