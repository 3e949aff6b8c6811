"""Whether the service answers, asked as its users would ask: over HTTP, at the address where it is published."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - told apart, not bound
_ANSWER_SECONDS = 2.0


def url(address: str, port: int) -> str:
    """Where users of this machine find what is published on `address`."""
    host = reachable(address)
    if host in {"127.0.0.1", "::1"}:
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def reachable(address: str) -> str:
    """An address at which this machine reaches what listens on `address`."""
    return _EVERY_INTERFACE.get(address, address)


def answers(address: str, port: int) -> bool:
    """Whether GET /health says 200 OK."""
    try:
        status, body = _get(address, port, "/health")
    except (OSError, http.client.HTTPException):
        return False
    return status == 200 and body.strip() == b"OK"


def ask(address: str, port: int, path: str) -> tuple[int, Any] | None:
    """Status and JSON body of a GET; None when nothing answers, or something other than JSON."""
    try:
        status, body = _get(address, port, path)
        return status, json.loads(body)
    except (OSError, http.client.HTTPException, ValueError):
        return None


def backoff(longest: float = 2.0) -> Iterator[float]:
    """Seconds between two looks: short at first, never more than `longest`."""
    pause = 0.05
    while True:
        yield pause
        pause = min(pause * 1.3, longest)


def _get(address: str, port: int, path: str) -> tuple[int, bytes]:
    # http.client knows no proxies, which have no business between a host and itself.
    connection = http.client.HTTPConnection(reachable(address), port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
