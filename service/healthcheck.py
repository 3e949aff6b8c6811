"""`python -m service.healthcheck`: exits 0 if the service on this machine answers; for container runtimes."""

from __future__ import annotations

import os
import socket
import sys

_REQUEST = b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"


def healthy(port: int, timeout: float = 2.0, *, tls: bool = False) -> bool:
    """Whether GET /health answers OK; `timeout` is in seconds, for each send and receive.

    A plain socket: this runs every few seconds, and importing an HTTP client would quadruple its duration.
    """
    response = b""
    try:
        with _connected(port, timeout, tls=tls) as connection:
            connection.sendall(_REQUEST)
            while received := connection.recv(4096):
                response += received
    except OSError:
        return False
    status_line, _, rest = response.partition(b"\r\n")
    return status_line.split(b" ")[1:2] == [b"200"] and rest.endswith(b"\r\n\r\nOK")


def _connected(port: int, timeout: float, *, tls: bool) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout)
    if not tls:
        return connection
    import ssl  # noqa: PLC0415 - takes longer than the rest

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate names the service's host, not this loopback address.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


if __name__ == "__main__":
    sys.exit(not healthy(int(os.environ.get("HTTP_PORT", "8080")), tls=bool(os.environ.get("TLS_CERT"))))
