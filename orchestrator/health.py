"""Sends HTTP requests to the published address of a service."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, NamedTuple

from service.contract.http import INSTANCE_HEADER

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - told apart, not bound
_ANSWER_SECONDS = 2.0


class Answer(Enum):
    """The program that answers GET /health at an address."""

    OURS = auto()
    OTHER = auto()
    """Another program, or another instance of the service."""
    NOBODY = auto()


class _Response(NamedTuple):
    status: int
    instance: str | None
    body: bytes


def url(address: str, port: int) -> str:
    """The host name under which users of this machine reach a service published on `address`."""
    host = reachable(address)
    return f"http://{host_and_port('localhost' if host in {'127.0.0.1', '::1'} else host, port)}"


def host_and_port(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(address: str) -> str:
    """An address at which this machine reaches a server that listens on `address`."""
    return _EVERY_INTERFACE.get(address, address)


def who_answers(address: str, port: int, instance: str) -> Answer:
    """Whether GET /health answers 200 OK as the given instance; any instance counts if `instance` is empty."""
    try:
        response = _get(address, port, "/health")
    except OSError:
        return Answer.NOBODY
    except http.client.HTTPException:
        return Answer.OTHER
    healthy = response.status == 200 and response.body.strip() == b"OK"
    ours = healthy and (not instance or response.instance == instance)
    return Answer.OURS if ours else Answer.OTHER


def ask(address: str, port: int, path: str) -> tuple[int, Any] | None:
    """Status and JSON body of a GET; None if nothing answers or the body is not JSON."""
    try:
        response = _get(address, port, path)
        return response.status, json.loads(response.body)
    except (OSError, http.client.HTTPException, ValueError):
        return None


def ask_text(address: str, port: int, path: str) -> str:
    """The body of a successful GET; empty if nothing answers."""
    try:
        response = _get(address, port, path)
    except (OSError, http.client.HTTPException):
        return ""
    return response.body.decode("utf-8", "replace") if response.status == 200 else ""


def backoff(longest: float = 2.0) -> Iterator[float]:
    """Seconds until the next poll: short at first, never more than `longest`."""
    pause = 0.05
    while True:
        yield pause
        pause = min(pause * 1.3, longest)


def _get(address: str, port: int, path: str) -> _Response:
    # http.client ignores proxies, which must not be used between a host and itself.
    connection = http.client.HTTPConnection(reachable(address), port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return _Response(response.status, response.getheader(INSTANCE_HEADER), response.read())
    finally:
        connection.close()
