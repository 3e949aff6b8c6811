"""Recognises engines among the containers of a runtime, and where a service in another container reaches them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.runtimes.base import Container
from service.contract.containers import HOST_NAME
from service.contract.endpoints import is_loopback
from service.contract.pods import PodEntry, pod_entry

LABEL = "kvcache.pod"
"""`true` makes a container an engine, whatever its image, and `false` makes it none."""
_IMAGES = (
    (re.compile(r"(^|/)vllm(-(?!router)[\w.-]*)?(/vllm-openai[\w.-]*)?([:@]|$)|/vllm-openai[\w.-]*([:@]|$)"), 8000),
    (re.compile(r"(^|/)sglang(-(?!router)[\w.-]*)?([:@]|$)"), 30000),
)
"""The images of engines by their name, and the engine's default port."""
_PORT = re.compile(r"--port[= ](\d+)")


class NotUsable(Exception):
    """An engine that cannot be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine in a container: its port, and the values of its labels."""

    container: Container
    port: int
    scheme: str = "http"
    model: str | None = None
    events: int | None = None
    replay: int | None = None

    def entry(self, host: str) -> PodEntry:
        """The pod, at an address that the service reaches."""
        host = f"[{host}]" if ":" in host else host
        options = {
            "name": self.container.name,
            "model": self.model,
            "events": f"tcp://{host}:{self.events}" if self.events is not None else None,
            "replay": f"tcp://{host}:{self.replay}" if self.replay is not None else None,
        }
        given = {name: value for name, value in options.items() if value is not None}
        return pod_entry(f"{self.scheme}://{host}:{self.port}", given)


def engine_in(container: Container) -> Engine | None:
    """The engine that a container runs; None if it runs none. Raises NotUsable for labels that are not valid."""
    labels = container.labels
    labelled = labels.get(LABEL, "").strip().lower()
    default = next((port for image, port in _IMAGES if image.search(container.image)), None)
    if labelled == "false" or (not labelled and default is None):
        return None
    if labelled not in {"", "true"}:
        raise NotUsable(f"{container.name}: its label {LABEL}={labels[LABEL]} must be true or false")
    named = _PORT.search(" ".join(container.arguments))
    port = _number(container, labels, "port") or (int(named[1]) if named else default) or _only_port(container)
    if port is None:
        raise NotUsable(f"{container.name}: its port is not known; name it in the label kvcache.port")
    return Engine(
        container,
        port,
        scheme=labels.get("kvcache.scheme", "http"),
        model=labels.get("kvcache.model"),
        events=_number(container, labels, "events"),
        replay=_number(container, labels, "replay"),
    )


def _number(container: Container, labels: Mapping[str, str], name: str) -> int | None:
    text = labels.get(f"kvcache.{name}")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise NotUsable(f"{container.name}: its label kvcache.{name}={text} is no port")
    return int(text)


def _only_port(container: Container) -> int | None:
    return container.exposed[0] if len(container.exposed) == 1 else None


def addresses(engine: Engine, service: Container) -> Iterator[str]:
    """The addresses at which the service reaches the engine now: in a network of both, or on this machine."""
    for network, address in engine.container.networks.items():
        if network in service.networks and address:
            yield address
    if engine.container.on_host_network:
        yield HOST_NAME


def published(engine: Engine) -> Engine | None:
    """The engine at its published port of this machine; None if it publishes it on loopback only, or not at all."""
    found = engine.container.published.get(engine.port)
    if found is None or is_loopback(found.address):
        return None
    return Engine(engine.container, found.port, engine.scheme, engine.model, engine.events, engine.replay)
