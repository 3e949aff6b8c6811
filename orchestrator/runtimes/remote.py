"""Detects a runtime on another machine: it can neither mount our folders nor publish ports here."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")  # a virtual machine, such as `podman machine`


def remote_machine(address: str) -> str | None:
    """The machine's name in a runtime's address (unix, tcp, http, ssh); None for this machine."""
    url = urlsplit(address)
    if url.scheme.endswith(("unix", "npipe")) or url.hostname is None or _LOOPBACK.fullmatch(url.hostname):
        return None
    return url.hostname
