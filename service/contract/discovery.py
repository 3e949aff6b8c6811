"""Sources that name pods: the grammar of DISCOVERY."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

FILE, DNS, KUBERNETES, CONTAINERS = "file", "dns", "kubernetes", "containers"
_FILE_OPTIONS = frozenset({"key_file", "kubeconfig"})


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One source as the operator writes it: `KIND:PLACE[?OPTION=VALUE[&…]]`."""

    kind: str
    place: str
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str | None:
        return dict(self.options).get(name)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it names."""
        place = (self.place,) if self.kind == FILE else ()
        return (*place, *(value for name, value in self.options if name in _FILE_OPTIONS))

    def with_files(self, paths: Mapping[str, str]) -> SourceEntry:
        """The same entry with files replaced by others, which are given by the path of the file that they replace."""
        place = paths.get(self.place, self.place) if self.kind == FILE else self.place
        options = [(name, paths.get(value, value) if name in _FILE_OPTIONS else value) for name, value in self.options]
        return SourceEntry(self.kind, place, tuple(options))

    def __str__(self) -> str:
        """The entry as `parse_discovery` reads it."""
        options = "&".join(f"{name}={value}" for name, value in self.options)
        place = f":{self.place}" if self.place else ""
        return f"{self.kind}{place}" + (f"?{options}" if options else "")


Check = Callable[[str], object]
"""Raises ValueError, with a sentence that follows the value, for one that is not valid."""


def _file(place: str) -> None:
    if not place:
        raise ValueError("must name a file")


def _any(value: str) -> None:
    if "," in value:
        raise ValueError("must not have a comma")


def _scheme(value: str) -> None:
    if value not in {"http", "https"}:
        raise ValueError("must be http or https")


def _port(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 6 and 0 < int(value) < 65536):
        raise ValueError("must be a port from 1 to 65535")
    return int(value)


def name_and_port(place: str) -> tuple[str, int | None]:
    """The name of a `dns:` source, and the port of its pods; None for SRV records, which have a port each.

    Raises ValueError.
    """
    name, colon, port = place.partition(":")
    if not _DNS_NAME.fullmatch(name) or bool(colon) == name.startswith("_"):
        raise ValueError("must be NAME:PORT, or _SERVICE._PROTOCOL.NAME for SRV records")
    return name, _port(port) if colon else None


def address_and_port(server: str) -> tuple[str, int]:
    """The address and the port of a DNS server, which is 53 by default. Raises ValueError."""
    found = _SERVER.fullmatch(server)
    try:
        address = ip_address(found["address"].strip("[]") if found else "")
        return str(address), _port(found["port"] or "53") if found else 0
    except ValueError:
        raise ValueError("must be ADDRESS or ADDRESS:PORT, an IPv6 address in brackets") from None


def namespace_and_selector(place: str) -> tuple[str, str]:
    """The namespace of a `kubernetes:` source, and its label selector. Raises ValueError."""
    namespace, _, selector = place.partition("/")
    if not _NAMESPACE.fullmatch(namespace) or not selector.strip():
        raise ValueError("must be NAMESPACE/SELECTOR, such as llm/app=vllm")
    return namespace, selector


def reads_slices(entry: SourceEntry) -> bool:
    """Whether a `kubernetes:` source reads EndpointSlices, and not Pods."""
    kind = entry.option("kind")
    return kind == "endpointslices" or (kind is None and "kubernetes.io/service-name" in entry.place)


def _kind(value: str) -> None:
    if value not in {"pods", "endpointslices"}:
        raise ValueError("must be pods or endpointslices")


def _named_port(value: str) -> None:
    if value.isdecimal():
        _port(value)
    elif not re.fullmatch(r"[a-z0-9-]{1,63}", value):
        raise ValueError("must be the name or the number of a port")


_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_SERVER = re.compile(r"(?P<address>\[[^\[\]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]+))?")
_OF_PODS: Mapping[str, Check] = {"scheme": _scheme, "model": _any, "key_file": _any}
_KINDS: Mapping[str, tuple[Check, Mapping[str, Check]]] = {
    FILE: (_file, {}),
    CONTAINERS: (_any, {}),
    DNS: (name_and_port, {**_OF_PODS, "events": _port, "replay": _port, "server": address_and_port}),
    KUBERNETES: (
        namespace_and_selector,
        {
            **_OF_PODS,
            "kind": _kind,
            "port": _named_port,
            "events": _named_port,
            "replay": _named_port,
            "kubeconfig": _any,
        },
    ),
}
"""What checks the place, and the options with what checks their values, by kind."""
_NEXT = re.compile(rf",(?=\s*(?:(?:{'|'.join(_KINDS)}):|{CONTAINERS}\s*(?:,|$)))")


def parse_discovery(text: str) -> tuple[SourceEntry, ...]:
    """Reads `file:PATH`, `dns:NAME:PORT`, `kubernetes:NAMESPACE/SELECTOR` and `containers`, separated by commas.

    For the service, `containers:PATH` names the file that the command on the host writes. Raises ValueError with a
    sentence that names the invalid part.
    """
    entries = tuple(_entry(part.strip()) for part in _NEXT.split(text)) if text.strip() else ()
    return tuple(dict.fromkeys(entries))


def _entry(text: str) -> SourceEntry:
    kind, _, rest = text.partition(":")
    if kind not in _KINDS:
        kinds = ", ".join(f"{one}:" for one in _KINDS if one != CONTAINERS)
        raise ValueError(f"{text!r} must be {CONTAINERS}, or begin with one of {kinds}")
    check, known = _KINDS[kind]
    place, _, written = rest.partition("?") if known else (rest, "", "")
    _check(check, place)
    options = tuple(_option(part, known) for part in written.split("&")) if written else ()
    return SourceEntry(kind, place, options)


def _option(text: str, known: Mapping[str, Check]) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if name not in known or not value:
        raise ValueError(f"{text!r} must be one of {', '.join(f'{one}=…' for one in known)}")
    _check(known[name], value)
    return name, value


def _check(check: Check, value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{value!r} {error}") from None
