"""Converts the host's ZMQ_ENDPOINT for a container: ports to publish, and the host's name instead of loopback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.errors import UsageError
from service.contract.endpoints import Endpoint, host_port, is_loopback
from service.contract.pods import PodEntry, pod_entry
from service.contract.shared_state import moved

_EVERY_INTERFACE = frozenset({"*", "0.0.0.0", "[::]"})  # noqa: S104 - recognised, not bound


def ports_to_publish(endpoints: Iterable[Endpoint]) -> list[int]:
    """Ports at which engines reach sockets that the service binds; raises UsageError if a container cannot bind one."""
    ports = []
    for endpoint in endpoints:
        if not endpoint.binds:
            continue
        found = host_port(endpoint.address)
        if found is None or found.port is None or found.host not in _EVERY_INTERFACE:
            raise UsageError(
                f"{endpoint.address} cannot be bound from inside a container: nothing outside would reach it.",
                "Use tcp://*:PORT, or --runtime process.",
            )
        ports.append(found.port)
    return ports


def pods_seen_from_container(pods: Iterable[PodEntry], host_name: str) -> tuple[PodEntry, ...]:
    """The same pods, with loopback replaced by the name under which a container reaches this machine.
    Pod names do not change.
    """

    def moved_pod(pod: PodEntry) -> PodEntry:
        url = url_seen_from_container(pod.url, host_name)
        given = pod.endpoint
        seen = seen_from_container([given], host_name)[0] if given else None
        return replace(pod, url=url, events=seen.address if seen else None, replay=seen.replay if seen else None)

    return tuple(map(moved_pod, pods))


def url_seen_from_container(url: str, host_name: str) -> str:
    """The same URL, with loopback replaced by the name under which a container reaches this machine."""
    pod = pod_entry(url, {})
    scheme = "https" if pod.is_tls else "http"
    return f"{scheme}://{host_name}:{pod.port}{pod.path}" if is_loopback(pod.host) else url


def shared_state_seen_from_container(url: str, host_name: str, files: Mapping[str, str]) -> str:
    """The same SHARED_STATE, with loopback replaced by the name under which a container reaches this machine.

    `files` are the paths inside the container of this machine's files.
    """
    return moved(url, lambda host: host_name if is_loopback(host) else host, lambda file: files.get(file, file))


def seen_from_container(endpoints: Iterable[Endpoint], host_name: str) -> tuple[Endpoint, ...]:
    """The same endpoints, with loopback replaced by the name under which a container reaches this machine."""

    def seen(address: str) -> str:
        found = host_port(address)
        return f"tcp://{host_name}:{found.port}" if found and found.is_loopback and found.port else address

    return tuple(
        replace(
            endpoint,
            address=seen(endpoint.address),
            replay=endpoint.replay and seen(endpoint.replay),
            snapshot=endpoint.snapshot and seen(endpoint.snapshot),
            url=endpoint.url and url_seen_from_container(endpoint.url, host_name),
        )
        for endpoint in endpoints
    )
