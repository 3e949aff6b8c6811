"""How tests wait: for a state, and as long as a slow and busy machine takes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 100.0
"""Seconds after which a test fails that waits for something. Nothing that works takes nearly as long."""


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits until a condition holds; fails when it does not in time."""
    async with asyncio.timeout(seconds):
        for _ in iter(condition, True):
            await asyncio.sleep(0.005)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections, and that no other process is given meanwhile.

    A server that sets SO_REUSEADDR, as asyncio, ZeroMQ and Go do, can listen on it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
