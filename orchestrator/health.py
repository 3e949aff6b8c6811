"""Sends HTTP requests to the published address of a service."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

from service.contract.http import INSTANCE_HEADER

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - told apart, not bound
_ANSWER_SECONDS = 2.0
API_KEY_VARIABLE = "KVCACHE_API_KEY"
"""The variable with the API key that the commands send to a service that needs one."""


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


def url(address: str, port: int, *, tls: bool = False) -> str:
    """The host name under which users of this machine reach a service published on `address`."""
    host = reachable(address)
    return f"http{'s' if tls else ''}://{host_and_port('localhost' if host in {'127.0.0.1', '::1'} else host, port)}"


def host_and_port(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(address: str) -> str:
    """An address at which this machine reaches a server that listens on `address`."""
    return _EVERY_INTERFACE.get(address, address)


def key_header() -> dict[str, str]:
    """The header with the API key of KVCACHE_API_KEY; empty without one."""
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def who_answers(address: str, port: int, instance: str, *, tls: bool = False) -> Answer:
    """Whether GET /health answers 200 OK as the given instance; any instance counts if `instance` is empty."""
    try:
        response = _get(address, port, "/health", tls=tls)
    except OSError:
        return Answer.NOBODY
    except http.client.HTTPException:
        return Answer.OTHER
    healthy = response.status == 200 and response.body.strip() == b"OK"
    ours = healthy and (not instance or response.instance == instance)
    return Answer.OURS if ours else Answer.OTHER


def ask(address: str, port: int, path: str, *, tls: bool = False, with_key: bool = True) -> tuple[int, Any] | None:
    """Status and JSON body of a GET; None if nothing answers or the body is not JSON."""
    try:
        response = _get(address, port, path, tls=tls, headers=key_header() if with_key else {})
        return response.status, json.loads(response.body)
    except (OSError, http.client.HTTPException, ValueError):
        return None


def ask_text(address: str, port: int, path: str, *, tls: bool = False) -> str:
    """The body of a successful GET; empty if nothing answers."""
    try:
        response = _get(address, port, path, tls=tls, headers=key_header())
    except (OSError, http.client.HTTPException):
        return ""
    return response.body.decode("utf-8", "replace") if response.status == 200 else ""


def backoff(longest: float = 2.0) -> Iterator[float]:
    """Seconds until the next poll: short at first, never more than `longest`."""
    pause = 0.05
    while True:
        yield pause
        pause = min(pause * 1.3, longest)


def _unverified() -> ssl.SSLContext:
    """For services that are known by their instance: a certificate names a host, not the address of its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _get(address: str, port: int, path: str, *, tls: bool, headers: Mapping[str, str] | None = None) -> _Response:
    # http.client ignores proxies, which must not be used between a host and itself.
    host = reachable(address)
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_ANSWER_SECONDS, context=_unverified())
        if tls
        else http.client.HTTPConnection(host, port, timeout=_ANSWER_SECONDS)
    )
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return _Response(response.status, response.getheader(INSTANCE_HEADER), response.read())
    finally:
        connection.close()
