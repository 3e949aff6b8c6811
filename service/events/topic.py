"""Topics: `kv@<pod>@<model>` names who speaks; what a topic leaves unsaid, the endpoint and the settings say."""

from __future__ import annotations

from typing import NamedTuple

from service.contract.endpoints import Endpoint

_PREFIX = "kv@"


class Source(NamedTuple):
    """Whose events a topic carries."""

    pod: str
    model: str


def read_topic(topic: bytes, endpoint: Endpoint, default_model: str, peer: str | None = None) -> Source:
    """Reads a topic frame. A model name may hold `@`, a pod name may not.

    A pod that neither topic nor endpoint names is called by where its events come from: the address that we connect
    to, or `peer`, the host of one that connected to us.
    """
    text = topic.decode("utf-8", errors="backslashreplace")
    pod, _, model = text.removeprefix(_PREFIX).partition("@") if text.startswith(_PREFIX) else ("", "", "")
    return Source(pod or endpoint.pod or _address(endpoint, peer), model or endpoint.model or default_model)


def _address(endpoint: Endpoint, peer: str | None) -> str:
    if endpoint.binds and peer:
        return peer
    return endpoint.address.partition("://")[2]
