"""The engines of POST /register, whose events all replicas follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from service.contract.endpoints import Endpoint, parse_endpoints
from service.replicas.shared.state import SharedState

DEFAULT_TENANT: Final = "default"
_TABLE: Final = "publishers"


class Instance(msgspec.Struct):
    """An engine whose events are followed for a tenant: an endpoint per rank."""

    tenant: str
    endpoints: dict[int, Endpoint] = msgspec.field(default_factory=dict)


class _Publisher(msgspec.Struct, frozen=True):
    """One rank of an instance; `endpoint` as in ZMQ_ENDPOINT."""

    instance: str
    rank: int
    tenant: str
    endpoint: str


_decode = msgspec.json.Decoder(_Publisher).decode


class Publishers:
    """The registered instances of all replicas, by name.

    `follow` and `unfollow` are called with each endpoint that comes and goes, and `forget` with the name of an instance
    that has none left.
    """

    def __init__(
        self,
        shared: SharedState,
        follow: Callable[[Endpoint], None],
        unfollow: Callable[[Endpoint], None],
        forget: Callable[[str], object],
    ) -> None:
        self._shared = shared
        self._follow = follow
        self._unfollow = unfollow
        self._forget = forget
        self._instances: dict[str, Instance] = {}
        self._followed: dict[str, _Publisher] = {}
        shared.watch(_TABLE, self._changed)

    def get(self, name: str) -> Instance | None:
        return self._instances.get(name)

    def add(self, name: str, rank: int, tenant: str, endpoint: Endpoint) -> None:
        publisher = _Publisher(name, rank, tenant, str(endpoint))
        self._shared.put(_TABLE, _key(name, rank), msgspec.json.encode(publisher))

    def remove(self, name: str, rank: int) -> None:
        self._shared.remove(_TABLE, _key(name, rank))

    def _changed(self, key: str, value: bytes | None) -> None:
        if (former := self._followed.pop(key, None)) is not None:
            instance = self._instances[former.instance]
            self._unfollow(instance.endpoints.pop(former.rank))
        if value is not None:
            publisher = _decode(value)
            (endpoint,) = parse_endpoints(publisher.endpoint)
            instance = self._instances.setdefault(publisher.instance, Instance(publisher.tenant))
            instance.tenant, instance.endpoints[publisher.rank] = publisher.tenant, endpoint
            self._followed[key] = publisher
            self._follow(endpoint)
        if former is not None and not self._instances[former.instance].endpoints:
            del self._instances[former.instance]
            self._forget(former.instance)


def _key(name: str, rank: int) -> str:
    return f"{rank}@{name}"
