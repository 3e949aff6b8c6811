"""Resolves host names outside libzmq: a slow resolver would block its one I/O thread for all endpoints."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, TypeAlias

from service.contract.endpoints import host_port

Lookup: TypeAlias = Callable[[str], Sequence[str]]
"""Returns the IP addresses of a host name; may block; raises OSError."""

_MAX_LOOKUPS = 256


def lookup(host: str) -> list[str]:
    """Asks the system's resolver, and keeps its order of preference."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Resolves names in daemon threads, so that a slow lookup delays neither other work nor process exit."""

    def __init__(self, lookup: Lookup = lookup) -> None:
        self._lookup = lookup
        self._running: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def resolve(self, address: str) -> list[str]:
        """ZeroMQ addresses with the host name replaced by an IP address. Raises OSError if it has none."""
        if is_literal(address):
            return [address]
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        found = await asyncio.shield(self._future(host))
        return [f"tcp://[{one}]:{port}" if ":" in one else f"tcp://{one}:{port}" for one in found]

    def _future(self, host: str) -> asyncio.Future[Sequence[str]]:
        future = self._running.get(host)
        if future is None:
            if len(self._running) >= _MAX_LOOKUPS:
                raise OSError(f"{_MAX_LOOKUPS} other names are being looked up")
            loop = asyncio.get_running_loop()
            self._running[host] = future = loop.create_future()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may have left
            threading.Thread(target=self._run, args=(host, loop), name=f"resolver of {host}", daemon=True).start()
        return future

    def _run(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        found: Sequence[str] = ()
        error: OSError | None = None
        try:
            found = self._lookup(host)
        except (OSError, UnicodeError) as failure:
            error = OSError(f"{host} cannot be resolved: {failure}")
        with suppress(RuntimeError):  # the loop may be closed already
            loop.call_soon_threadsafe(self._done, host, found, error)

    def _done(self, host: str, found: Sequence[str], error: OSError | None) -> None:
        future = self._running.pop(host)
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found)


def is_literal(address: str) -> bool:
    """Whether a ZeroMQ address can be used without a lookup."""
    parts = host_port(address)
    return parts is None or "*" in parts.host or is_ip(parts.host)


def is_ip(host: str) -> bool:
    try:
        ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def prepare(socket: Any, address: str) -> None:
    """Enables IPv6 on a ZeroMQ socket, before bind or connect, if the address is IPv6 or a wildcard."""
    socket.ipv6 = "[" in address or "tcp://*" in address
