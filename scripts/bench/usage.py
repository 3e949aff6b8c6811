"""CPU time and memory of a process, from the kernel's accounting."""

from __future__ import annotations

import sys
import time

import psutil


class Usage:
    """The usage of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def cpu(self) -> float:
        """CPU seconds of all threads so far, user and system."""
        children = self._process.children(recursive=True)
        ended = self._process.cpu_times()
        return (
            sum(_cpu_seconds(process) for process in (self._process, *children))
            + getattr(ended, "children_user", 0.0)
            + getattr(ended, "children_system", 0.0)
        )

    def cpu_by_process(self) -> dict[int, float]:
        """CPU seconds so far of the process, which comes first, and of each descendant that runs, by its id."""
        processes = (self._process, *self._process.children(recursive=True))
        return {process.pid: _cpu_seconds(process) for process in processes}

    def memory(self) -> int:
        """Memory that only these processes use (USS), in bytes."""
        return sum(
            int(process.memory_full_info().uss) for process in (self._process, *self._process.children(recursive=True))
        )


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # The clock of clock_getcpuclockid(3): in nanoseconds, where /proc counts in ticks of 10 ms.
        return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return times.user + times.system
