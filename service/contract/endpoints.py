"""Where an engine's events come from: one entry of ZMQ_ENDPOINT."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_SCHEMES = ("tcp://", "ipc://", "inproc://")
_OPTIONS = ("pod", "model", "replay")
_HOST = re.compile(r"\[[^\[\]\s/;]+\]|[^:\s/;=]+")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to subscribe to, and what its topic may leave unsaid.

    `pod` and `model` name the source of messages whose topic is not `kv@<pod>@<model>` (vLLM's default topic is
    empty); `replay` is the address of the engine's replay socket. Where engines connect to us, its host may be `*`.
    """

    address: str
    pod: str | None = None
    model: str | None = None
    replay: str | None = None

    @property
    def binds(self) -> bool:
        """Whether we listen there and engines connect: vLLM's rule, mirrored (zmq_event_publisher, vLLM 0.33)."""
        return "*" in self.address or "[::]" in self.address or self.address.startswith(("ipc://", "inproc://"))

    def replay_of(self, pod: str, rank: int) -> str | None:
        """Where to ask a rank for a replay. The host `*` is that of the pod, and then each rank has its own port: the
        one given plus its number, as vLLM counts them."""
        if self.replay is None or not self.replay.startswith("tcp://*:"):
            return self.replay
        host, colon, port = pod.rpartition(":")
        return f"tcp://{host if colon and port.isdecimal() else pod}:{int(self.replay[8:]) + rank}"


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Reads `ADDRESS[,pod=…][,model=…][,replay=…][,ADDRESS…]`; an option belongs to the address before it.

    Raises ValueError with a sentence that names the offending part.
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
        if getattr(endpoints[-1], option) is not None:
            raise ValueError(f"{part!r} is the second {option}= of {endpoints[-1].address}")
        if option == "replay":
            _check_address(value, replay=True)
        endpoints[-1] = replace(endpoints[-1], **{option: value})
    if not endpoints:
        raise ValueError("names no address")
    return tuple(endpoints)


def _option(part: str) -> tuple[str | None, str]:
    """The name and value of an option; no name where a part is an address. Raises ValueError for any other option."""
    name, equals, value = (word.strip() for word in part.partition("="))
    if not equals or "://" in name:
        return None, part
    if name not in _OPTIONS:
        raise ValueError(f"{part!r} is no option: there are {', '.join(f'{option}=' for option in _OPTIONS)}")
    return name, value


def _check_address(address: str, *, replay: bool = False) -> None:
    if not address.startswith(_SCHEMES) or address in _SCHEMES:
        raise ValueError(f"{address!r} is no address: it must start with {', '.join(_SCHEMES)} and name something")
    if address.startswith("tcp://"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        numbered = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
        if not _HOST.fullmatch(host) or not (numbered or (port == "*" and not replay)):
            raise ValueError(f"{address!r} must be tcp://HOST:PORT with a port from 1 to 65535")
