"""Ports for processes that bind them seconds after they were chosen."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection


def unassigned_port(offsets: Collection[int] = (0,)) -> int:
    """A port which, with each of these added, is free.

    The system gives ports from 32768 on to whoever asks for any, so those are left out.
    """
    while True:
        port = random.randrange(10_000, 32_500)
        if all(_is_free(port + offset) for offset in offsets):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as asked:
        try:
            asked.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
