"""Checks whether a port of this machine is free, and finds the process that holds it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import psutil


def is_free(address: str, port: int) -> bool:
    """Whether a service could listen there; also True if the address does not belong to this machine."""
    error = _bind(address, port)
    return error is None or error.errno != errno.EADDRINUSE


def is_local(address: str) -> bool:
    return _bind(address, 0) is None


def next_free(address: str, port: int) -> int:
    """The next higher port on which a service could listen, or the given one if none is free."""
    return next((other for other in range(port + 1, min(port + 1000, 65536)) if _bind(address, other) is None), port)


def free_ports(address: str, count: int) -> tuple[int, ...]:
    """So many different ports on which a service could listen at the moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket(_family(address))) for _ in range(count)]
        for probe in probes:
            probe.bind((address if is_local(address) else "", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _bind(address: str, port: int) -> OSError | None:
    try:
        with socket.socket(_family(address)) as probe:
            # SO_REUSEADDR, as servers set it: recently closed connections do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        return error
    return None


def listener(port: int) -> str | None:
    """The process that listens on a TCP port, as "python3 (process 4711)"; None if it is not visible."""
    for _, pid in _listening(port):
        if pid is not None:
            try:
                return f"{psutil.Process(pid).name()} (process {pid})"
            except psutil.NoSuchProcess:
                return f"process {pid}"
    return None


def listens_on_loopback_only(port: int) -> bool:
    """Whether the listener on a TCP port is on loopback only, hence unreachable from outside and from containers.

    Also False if the listener is not visible.
    """
    addresses = [address for address, _ in _listening(port)]
    return bool(addresses) and all(ip_address(address).is_loopback for address in addresses)


def _listening(port: int) -> Iterator[tuple[str, int | None]]:
    """Address and process of each visible socket that listens on this port."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            yield connection.laddr.ip, connection.pid
