"""The event loop of the service, which looks names up in threads of their own.

The loops of asyncio and uvloop have a few threads for it: one name whose lookup hangs keeps others waiting, and the end
of the process waits for all of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeAlias, cast

from service.lookups import Lookups

Found: TypeAlias = list[Any]
"""What socket.getaddrinfo gives."""


class _Question(NamedTuple):
    """The arguments of socket.getaddrinfo."""

    host: Any
    port: Any
    family: int = 0
    type: int = 0
    proto: int = 0
    flags: int = 0

    def __str__(self) -> str:
        return str(self.host)


def _ask(question: _Question) -> Found:
    return socket.getaddrinfo(*question)


class _InThreads:
    """Replaces the methods of a loop that look names up."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups: Lookups[_Question, Found] = Lookups(_ask)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Found:
        question = _Question(host, port, family, type, proto, flags)
        return _ask(question) if host is None or _is_ip(host) else await self._lookups.find(question)

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        connect: Any = super().create_connection  # type: ignore[misc]
        if host is None or _is_ip(host):
            return await connect(factory, host, port, **options)
        asked = {name: options.pop(name, 0) for name in ("family", "proto", "flags")}
        found = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM, **asked)
        if options.get("ssl"):
            options["server_hostname"] = options.get("server_hostname") or host
        problem = OSError(f"{host} has no address")
        for address in dict.fromkeys(entry[4][0] for entry in found):
            try:
                return await connect(factory, address, port, **options)
            except OSError as error:
                problem = error
        raise problem


def _is_ip(host: Any) -> bool:
    try:
        ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return True


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops of uvloop, or of asyncio where there is no uvloop."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        bases: tuple[type, ...] = (_InThreads, asyncio.SelectorEventLoop)
    else:
        bases = (_InThreads, uvloop.Loop)
    return cast("Callable[[], asyncio.AbstractEventLoop]", type("Loop", bases, {}))
