"""Proxy settings of this machine, converted for containers and builds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

PROXY_VARIABLES = tuple(
    variant for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for variant in (name, name.lower())
)
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1", re.IGNORECASE)


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in PROXY_VARIABLES if environment.get(name)}


def on_loopback(proxy: str) -> bool:
    """Whether a proxy URL points to this machine's loopback, which is another machine inside a container."""
    return _LOOPBACK.fullmatch(_host(proxy)) is not None


def has_password(proxy: str) -> bool:
    return "@" in proxy


def seen_from_container(variables: Mapping[str, str], host_name: str) -> dict[str, str]:
    """The same variables, with loopback replaced by the name under which a container reaches this machine."""
    return {
        name: re.sub(re.escape(_host(value)), host_name, value, count=1)
        if not name.upper().startswith("NO_") and on_loopback(value)
        else value
        for name, value in variables.items()
    }


def _host(proxy: str) -> str:
    try:
        return urlsplit(proxy if "://" in proxy else f"//{proxy}").hostname or ""
    except ValueError:
        return ""
