"""Topics: `kv@<pod>@<model>` names the source; endpoint and settings supply missing names."""

from __future__ import annotations

from typing import NamedTuple

from service.contract.endpoints import Endpoint

_PREFIX = "kv@"


class Source(NamedTuple):
    """The source of events: pod and model."""

    pod: str
    model: str


def read_topic(topic: bytes, endpoint: Endpoint, default_model: str, peer: str | None = None) -> Source:
    """Reads a topic frame. A model name may contain `@`, a pod name may not.

    If neither topic nor endpoint names the pod, its name is the address that we connect to, or `peer`, the host that
    connected to us.
    """
    text = topic.decode("utf-8", errors="backslashreplace")
    pod, _, model = text.removeprefix(_PREFIX).partition("@") if text.startswith(_PREFIX) else ("", "", "")
    return Source(pod or endpoint.pod or _address(endpoint, peer), model or endpoint.model or default_model)


def _address(endpoint: Endpoint, peer: str | None) -> str:
    if endpoint.binds and peer:
        return peer
    return endpoint.address.partition("://")[2]
