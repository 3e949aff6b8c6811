"""Pods and EndpointSlices of Kubernetes, and what they say about engines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from service.contract.discovery import SourceEntry
from service.fleet.discovery.base import Found, Present
from service.fleet.discovery.entries import entry_at

_ANNOTATION: Final = "kvcache/"
_DEFAULT_PORT: Final = "http"

Ports: TypeAlias = Sequence[tuple[str | None, int]]
"""Names and numbers."""


class _Struct(msgspec.Struct, rename="camel"):
    pass


class Metadata(_Struct):
    name: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _ContainerPort(_Struct):
    container_port: int
    name: str | None = None
    protocol: str = "TCP"


class _Container(_Struct):
    ports: list[_ContainerPort] | None = None


class _PodSpec(_Struct):
    containers: list[_Container] = []


class _Condition(_Struct):
    type: str
    status: str


class _PodStatus(_Struct):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    conditions: list[_Condition] | None = None


class KubernetesPod(_Struct):
    metadata: Metadata
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _EndpointConditions(_Struct):
    ready: bool | None = None
    terminating: bool | None = None


class _Reference(_Struct):
    uid: str | None = None


class _Endpoint(_Struct):
    addresses: list[str]
    conditions: _EndpointConditions = msgspec.field(default_factory=_EndpointConditions)
    target_ref: _Reference | None = None


class _EndpointPort(_Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(_Struct):
    metadata: Metadata
    address_type: str
    endpoints: list[_Endpoint] | None = None
    ports: list[_EndpointPort] | None = None


def of_pods(source: SourceEntry, pods: Iterable[KubernetesPod]) -> Present:
    """The pods that have an address and have not ended. One that is not ready, or is being deleted, drains."""
    found, problems = [], []
    for pod in pods:
        address = pod.status.pod_ip
        if address and pod.status.phase not in {"Succeeded", "Failed"}:
            is_ready = any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())
            ports = [
                (port.name, port.container_port)
                for container in pod.spec.containers
                for port in container.ports or ()
                if port.protocol == "TCP"
            ]
            try:
                draining = not is_ready or pod.metadata.deletion_timestamp is not None
                found.append(_found(source, address, ports, pod.metadata.annotations or {}, draining=draining))
            except ValueError as error:
                problems.append(f"the pod {pod.metadata.name} is left out: {error}")
    return Present(tuple(found), _shortened(problems))


def of_slices(source: SourceEntry, slices: Iterable[EndpointSlice]) -> Present:
    """The endpoints of slices, each once, though it may have an address of both IPv4 and IPv6, or be in two slices.

    An endpoint that is not ready, or is terminating, drains.
    """
    found: dict[str, Found] = {}
    problems = []
    for one in sorted(slices, key=lambda one: (one.address_type, one.metadata.name)):
        ports = [(port.name or None, port.port) for port in one.ports or () if port.port and port.protocol != "UDP"]
        for endpoint in one.endpoints or ():
            draining = endpoint.conditions.ready is False or endpoint.conditions.terminating is True
            target = endpoint.target_ref.uid if endpoint.target_ref is not None else None
            try:
                made = _found(source, endpoint.addresses[0], ports, {}, draining=draining)
            except ValueError as error:
                problems.append(f"the slice {one.metadata.name} is left out: {error}")
                break
            found.setdefault(target or made.entry.url, made)
    return Present(tuple(found.values()), _shortened(problems))


def _found(source: SourceEntry, address: str, ports: Ports, annotations: dict[str, str], *, draining: bool) -> Found:
    """Raises ValueError for a port that is not there, or an annotation that is not valid."""

    def given(name: str) -> str | None:
        return annotations.get(_ANNOTATION + name) or source.option(name)

    events, replay = given("events"), given("replay")
    return Found(
        entry_at(
            source,
            address,
            _port(given("port"), ports),
            scheme=given("scheme"),
            model=given("model"),
            events=_port(events, ports) if events else None,
            replay=_port(replay, ports) if replay else None,
        ),
        draining,
    )


def _port(wanted: str | None, ports: Ports) -> int:
    """The port of a number or a name; without one `http`, or the only port. Raises ValueError."""
    if wanted is not None and wanted.isascii() and wanted.isdecimal():
        return int(wanted)
    numbers = [number for name, number in ports if name == (wanted or _DEFAULT_PORT)]
    if wanted is None and not numbers:
        numbers = [number for _, number in ports]
    if len(set(numbers)) != 1:
        listed = ", ".join(f"{name or 'unnamed'} {number}" for name, number in ports) or "none"
        raise ValueError(f"no port {wanted or _DEFAULT_PORT} among its ports ({listed}); port= names one")
    return numbers[0]


def _shortened(problems: Sequence[str]) -> str | None:
    """The first of several problems, and how many more there are."""
    if not problems:
        return None
    return problems[0] + (f"; and {len(problems) - 1} more" if len(problems) > 1 else "")
