"""How many workers `WORKERS=auto` means."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path
from typing import Final

_CPU_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")


def number_of_cores(limit: Path = _CPU_LIMIT) -> int:
    """The cores that this process may use: those of the machine or its CPU set, or a container's `--cpus`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text(encoding="ascii").split()
        return max(1, min(cores, ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cores
