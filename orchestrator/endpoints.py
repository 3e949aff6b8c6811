"""ZMQ_ENDPOINT as it reads from the host, and as it must read from inside a container."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.errors import UsageError

_TCP = re.compile(r"tcp://(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>\d+|\*)$")
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|\[::1\]", re.IGNORECASE)
_EVERY_INTERFACE = frozenset({"*", "0.0.0.0", "[::]"})  # noqa: S104 - recognised, not bound


@dataclass(frozen=True, slots=True)
class Address:
    """One ZeroMQ address, as vLLM and the service write it."""

    text: str
    host: str | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Address:
        match = _TCP.match(text)
        if match is None:
            return cls(text, None, None)
        port = match["port"]
        return cls(text, match["host"], int(port) if port != "*" else None)

    @property
    def binds(self) -> bool:
        """Whether the service listens there and engines connect to it (the rule of service/events/endpoint.py)."""
        return "*" in self.text or "[::]" in self.text or self.text.startswith(("ipc://", "inproc://"))

    @property
    def loopback(self) -> bool:
        return self.host is not None and _LOOPBACK.fullmatch(self.host) is not None


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of ZMQ_ENDPOINT between two commas: an option's prefix, if any, and an address, if it has one."""

    prefix: str
    address: Address | None


def _parts(endpoint: str) -> list[_Part]:
    parts = []
    for piece in filter(None, (piece.strip() for piece in endpoint.split(","))):
        option, equals, value = piece.partition("=")
        if not equals or "://" in option:
            parts.append(_Part("", Address.parse(piece)))
        elif option == "replay":
            parts.append(_Part("replay=", Address.parse(value)))
        else:
            parts.append(_Part(piece, None))
    return parts


def addresses(endpoint: str) -> list[Address]:
    """Every address that the service would bind or connect to, those of replay sockets included."""
    return [part.address for part in _parts(endpoint) if part.address is not None]


def ports_to_publish(endpoint: str) -> list[int]:
    """Ports at which engines reach what the service binds; raises UsageError where a container cannot bind."""
    ports = []
    for address in addresses(endpoint):
        if not address.binds:
            continue
        if address.port is None or address.host not in _EVERY_INTERFACE:
            raise UsageError(
                f"{address.text} cannot be bound from inside a container: nothing outside would reach it.",
                "Use tcp://*:PORT, or --runtime process.",
            )
        ports.append(address.port)
    return ports


def seen_from_container(endpoint: str, host_name: str) -> str:
    """The same endpoint with loopback hosts turned into the name by which a container reaches this machine."""
    pieces = []
    for part in _parts(endpoint):
        text = part.address.text if part.address else ""
        if part.address is not None and part.address.loopback:
            text = f"tcp://{host_name}:{text.rpartition(':')[2]}"
        pieces.append(part.prefix + text)
    return ",".join(pieces)
