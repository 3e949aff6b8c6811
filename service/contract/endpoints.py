"""The event endpoints of engines: the grammar of ZMQ_ENDPOINT, and which addresses are bound."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

_SCHEMES = ("tcp://", "ipc://", "inproc://")
_OPTIONS = ("pod", "model", "replay", "snapshot", "hosts", "eagle", "curve", "peers", "pods", "url")
AT_REPLAY_SOCKET = "replay"
"""As `snapshot=`: the replay socket gives snapshots, too."""
_HOST = re.compile(r"\[[^\[\]\s/;]+\]|[^:\s/;=]+")
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|\[::1\]", re.IGNORECASE)


def binds(address: str) -> bool:
    """Whether a socket binds this ZeroMQ address rather than connects to it.

    Follows ZmqEventPublisher (vllm/distributed/kv_events.py, vLLM 0.33), which also binds any other address with `::`.
    """
    return "*" in address or "[::]" in address or address.startswith(("ipc://", "inproc://"))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback; an IPv6 address may have brackets."""
    return _LOOPBACK.fullmatch(f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host) is not None


class HostPort(NamedTuple):
    """Host (an IPv6 address in brackets) and port of a tcp:// address; port None is `*`, any free port."""

    host: str
    port: int | None

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def host_port(address: str) -> HostPort | None:
    """Host and port of a tcp:// address that `parse_endpoints` accepts; None for ipc:// and inproc://."""
    if not address.startswith("tcp://"):
        return None
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return HostPort(host, None if port == "*" else int(port))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to subscribe to, with defaults for its topics.

    `pod` and `model` name the source of messages with a topic other than `kv@<pod>@<model>` (vLLM's default topic is
    empty); `replay` is the address of the engine's replay socket. Where engines connect to us, its host may be `*`: the
    host that the engine connects from, or the host in its pod's name if that matches the pattern `hosts` (`10.0.*`).
    `snapshot` is where the engine gives snapshots of its cache: `replay`, or the address of a socket of its own, in the
    same form as `replay`.
    `eagle` is "1" for engines with EAGLE that hash no lookahead tokens: they reuse one block less than they announce.
    `curve` is a file with the public key of the engine; where engines connect to us, also a folder of such files, or
    `*` for any key. `peers` are the networks that may connect to a bound address, `pods` the patterns of the pod names
    that it may speak for; both are joined by `+`. `url` is that of the engine's HTTP server, as in PODS.
    """

    address: str
    pod: str | None = None
    model: str | None = None
    replay: str | None = None
    snapshot: str | None = None
    hosts: str | None = None
    eagle: str | None = None
    curve: str | None = None
    peers: str | None = None
    pods: str | None = None
    url: str | None = None

    @property
    def binds(self) -> bool:
        """Whether the service listens and engines connect."""
        return binds(self.address)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The address and, where there are some, those of the replay socket and of the snapshot socket."""
        others = (self.replay, None if self.snapshot == AT_REPLAY_SOCKET else self.snapshot)
        return (self.address, *filter(None, others))

    def admits(self, host: str) -> bool:
        """Whether an IP address may connect. An IPv4 address that IPv6 maps may be allowed as either."""
        if self.peers is None:
            return True
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        forms = [address]
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            forms.append(address.ipv4_mapped)
        return any(form in network for network in _networks(self.peers) for form in forms)

    def speaks_for(self, pod: str) -> bool:
        """Whether messages of the endpoint may be about a pod."""
        return self.pods is None or any(fnmatchcase(pod, pattern) for pattern in self.pods.split("+"))

    def __str__(self) -> str:
        """The entry as `parse_endpoints` reads it."""
        options = (f"{name}={value}" for name in _OPTIONS if (value := getattr(self, name)) is not None)
        return ",".join((self.address, *options))

    def replay_of(self, pod: str, rank: int, peer: str | None = None) -> str | None:
        """The replay address of a rank, None without one. `peer` is the host that its engine connects from.

        With the host `*`, each rank has its own port: the given port plus the rank, as in vLLM. The engine chooses the
        host in its pod's name, so that host is used only if `hosts` allows it.
        """
        return self._of_rank(self.replay, pod, rank, peer)

    def snapshot_of(self, pod: str, rank: int, peer: str | None = None) -> str | None:
        """As `replay_of`, the address that gives the snapshots of a rank."""
        socket = self.replay if self.snapshot == AT_REPLAY_SOCKET else self.snapshot
        return self._of_rank(socket, pod, rank, peer)

    def _of_rank(self, socket: str | None, pod: str, rank: int, peer: str | None) -> str | None:
        if socket is None or not socket.startswith("tcp://*:"):
            return socket
        name, colon, port = pod.rpartition(":")
        host: str | None = name if colon and port.isdecimal() else pod
        if self.hosts is None or not fnmatchcase(host or "", self.hosts):
            own = host_port(self.address)
            host = peer if self.binds or own is None else own.host
        if not host:
            return None
        return f"tcp://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{int(socket[8:]) + rank}"


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Reads `ADDRESS[,pod=…][,replay=…][,curve=…]…[,ADDRESS…]`; an option applies to the address before it.

    Raises ValueError with a sentence that names the invalid part.
    """
    endpoints: list[Endpoint] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        option, value = _option(part)
        if option is None:
            _check_address(part)
            if any(part == endpoint.address for endpoint in endpoints):
                raise ValueError(f"{part!r} is named twice")
            endpoints.append(Endpoint(part))
            continue
        if not endpoints:
            raise ValueError(f"{part!r} stands before any address")
        if not value:
            raise ValueError(f"{part!r} has no value")
        _check_option(endpoints[-1], option, value)
        endpoints[-1] = replace(endpoints[-1], **{option: value})
    if not endpoints:
        raise ValueError("names no address")
    for endpoint in endpoints:
        if endpoint.snapshot == AT_REPLAY_SOCKET and endpoint.replay is None:
            raise ValueError(f"snapshot=replay of {endpoint.address} needs the address of its replay socket: replay=")
    return tuple(endpoints)


def _check_option(endpoint: Endpoint, option: str, value: str) -> None:
    """Raises ValueError that names the invalid part."""
    part = f"{option}={value}"
    if getattr(endpoint, option) is not None:
        raise ValueError(f"{part!r} is the second {option}= of {endpoint.address}")
    if option == "replay" or (option == "snapshot" and value != AT_REPLAY_SOCKET):
        _check_address(value, replay=True)
    if option == "peers":
        if not endpoint.binds or not endpoint.address.startswith("tcp://"):
            raise ValueError(f"{part!r} is for a bound address, such as tcp://*:5557")
        _networks(value)
    if option == "url" and not _is_url(value):
        raise ValueError(f"{part!r} must be a URL such as url=http://10.0.0.7:8000")
    if option == "eagle" and value not in {"0", "1"}:
        raise ValueError(f"{part!r} must be eagle=0 or eagle=1")


def parse_optional_endpoints(text: str) -> tuple[Endpoint, ...]:
    """As `parse_endpoints`, but an empty text names none."""
    return parse_endpoints(text) if text.strip() else ()


def format_endpoints(endpoints: Iterable[Endpoint]) -> str:
    """The text that `parse_endpoints` reads back as the same endpoints."""
    return ",".join(map(str, endpoints))


@lru_cache(256)
def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Raises ValueError that names the invalid one."""
    networks = []
    for part in text.split("+"):
        try:
            networks.append(_unmapped(ip_network(part, strict=False)))
        except ValueError:
            raise ValueError(f"{part!r} in peers= must be an IP address or a network, such as 10.0.0.0/8") from None
    return tuple(networks)


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """The network of IPv4 that IPv6 maps to ::ffff:0:0/96."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _option(part: str) -> tuple[str | None, str]:
    """The name and value of an option; the name is None for an address. Raises ValueError for an unknown option."""
    name, equals, value = (word.strip() for word in part.partition("="))
    if not equals or "://" in name:
        return None, part
    if name not in _OPTIONS:
        raise ValueError(f"{part!r} is not a valid option: there are {', '.join(f'{option}=' for option in _OPTIONS)}")
    return name, value


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query and not parts.username


def _check_address(address: str, *, replay: bool = False) -> None:
    if not address.startswith(_SCHEMES) or address in _SCHEMES:
        raise ValueError(f"{address!r} must start with {', '.join(_SCHEMES)} and name something")
    if address.startswith("tcp://"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        numbered = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
        if not _HOST.fullmatch(host) or not (numbered or (port == "*" and not replay)):
            raise ValueError(f"{address!r} must be tcp://HOST:PORT with a port from 1 to 65535")
