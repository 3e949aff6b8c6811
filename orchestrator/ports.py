"""Whether a port of this machine is free, and who has it if it is not."""

from __future__ import annotations

import errno
import socket

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
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                return f"process {connection.pid}"
    return None
