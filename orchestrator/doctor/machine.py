"""Disk space, memory, and the folder in which this command stores its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.doctor.finding import Finding, ok, warning
from orchestrator.host.state import fallback_state_home, state_home

_IMAGE_BYTES = 3 << 30  # build stages, the image and a base image
_MEMORY_BYTES = 512 << 20
_STORAGES = ("/var/lib/containers", "/var/lib/docker", str(Path.home() / ".local/share/containers"))


def check_machine() -> Iterator[Finding]:
    for storage in {Path(name) for name in _STORAGES if Path(name).is_dir()} or {Path.home()}:
        try:
            free = psutil.disk_usage(str(storage)).free
        except OSError:
            continue
        said = f"{free / (1 << 30):.1f} GiB free in {storage}"
        if free < _IMAGE_BYTES:
            yield warning("disk", said, "A first build needs about 3 GiB: kvcache prune, or free some.")
        else:
            yield ok("disk", said)
    available = psutil.virtual_memory().available
    said = f"{available / (1 << 30):.1f} GiB available"
    if available < _MEMORY_BYTES:
        yield warning("memory", said, "The service needs about 0.3 GiB, and 50 bytes for each block of the engines.")
    else:
        yield ok("memory", said)
    if fallback := fallback_state_home():
        yield warning(
            "state folder",
            f"the usual one cannot be written, so {fallback} is used",
            "It may be gone after a restart of the machine: name another in XDG_STATE_HOME.",
        )
    else:
        yield ok("state folder", f"{state_home()} can be written")
