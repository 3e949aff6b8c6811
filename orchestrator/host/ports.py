"""Whether a port of this machine is free, and who has it if it is not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import psutil


def is_free(address: str, port: int) -> bool:
    """Whether a service could listen there. True as well when the address is not this machine's: not our question."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do, so that connections that are only just closed do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def listener(port: int) -> str | None:
    """The process that listens on a TCP port, as "python3 (process 4711)"; None when it may not be seen."""
    for _, pid in _listening(port):
        if pid is not None:
            try:
                return f"{psutil.Process(pid).name()} (process {pid})"
            except psutil.NoSuchProcess:
                return f"process {pid}"
    return None


def listens_on_loopback_only(port: int) -> bool:
    """Whether what listens on a TCP port of this machine is out of reach for anyone outside of it, containers included.

    False as well when that cannot be seen.
    """
    addresses = [address for address, _ in _listening(port)]
    return bool(addresses) and all(ip_address(address).is_loopback for address in addresses)


def _listening(port: int) -> Iterator[tuple[str, int | None]]:
    """Address and process of each socket that listens on this port, as far as they may be seen."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            yield connection.laddr.ip, connection.pid
