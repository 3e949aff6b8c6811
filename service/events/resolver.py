"""Resolves host names outside libzmq: a slow resolver would block its one I/O thread for all endpoints."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, TypeAlias

from service.contract.endpoints import host_port
from service.lookups import Lookups

Lookup: TypeAlias = Callable[[str], Sequence[str]]
"""Returns the IP addresses of a host name; may block; raises OSError."""


def lookup(host: str) -> list[str]:
    """Asks the system's resolver, and keeps its order of preference."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Resolves names in threads of their own."""

    def __init__(self, lookup: Lookup = lookup) -> None:
        self._lookups: Lookups[str, Sequence[str]] = Lookups(lookup)

    async def resolve(self, address: str) -> list[str]:
        """ZeroMQ addresses with the host name replaced by an IP address. Raises OSError if it has none."""
        if is_literal(address):
            return [address]
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        try:
            found = await self._lookups.find(host)
        except (OSError, UnicodeError) as failure:
            raise OSError(f"{host} cannot be resolved: {failure}") from failure
        return [f"tcp://[{one}]:{port}" if ":" in one else f"tcp://{one}:{port}" for one in found]


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
