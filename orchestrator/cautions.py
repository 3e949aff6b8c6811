"""Warnings about a launch that are visible before its start. None of them stops `up`."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from orchestrator.deployment import needs_store
from orchestrator.host.ports import listens_on_loopback_only
from orchestrator.launch import WITHOUT_KEY, Launch
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind
from service.contract.endpoints import binds, host_port, is_loopback
from service.contract.pods import PodEntry, with_endpoints_of
from service.contract.shared_state import parse_shared_state

ON_LOOPBACK = (
    "Use --runtime process; or let it listen on more: --host 0.0.0.0 of vLLM and `kvcache simulate`, --bind of Valkey."
)


class Caution(NamedTuple):
    """A sentence, and the action to take."""

    what: str
    remedy: str


def cautions(launch: Launch, runtime: ContainerRuntime) -> Iterator[Caution]:
    if runtime.kind is RuntimeKind.PROCESS:
        given = {"--cpus": launch.cpus, "--memory": launch.memory, "--network": launch.networks}
        if without_effect := [option for option, value in given.items() if value]:
            named = " and ".join(without_effect)
            verb = "have" if len(without_effect) > 1 else "has"
            yield Caution(f"{named} {verb} no effect on a child process.", "Use a container runtime.")
    if launch.valkey_image and not needs_store(launch):
        why = "one replica needs no Valkey" if launch.replicas == 1 else "the replicas meet at SHARED_STATE"
        yield Caution(f"--valkey-image has no effect: {why}.", "Leave it out.")
    if launch.is_open_to_others:
        where = "every interface" if ip_address(launch.publish_address).is_unspecified else launch.publish_address
        yield Caution(f"The service is published on {where}, for anyone.", WITHOUT_KEY)
    if reached_by_child_only := list(on_loopback_only(launch, runtime)):
        addresses = " and ".join(reached_by_child_only)
        verb = "listens" if len(reached_by_child_only) == 1 else "listen"
        yield Caution(f"A container does not reach {addresses}, which {verb} on loopback only.", ON_LOOPBACK)


def on_loopback_only(launch: Launch, runtime: ContainerRuntime) -> Iterator[str]:
    """URLs and addresses on this machine that a container does not reach, where that is visible."""
    if runtime.kind is RuntimeKind.PROCESS or runtime.machine or launch.engines_beside:
        return
    for pod in pods_asked(launch):
        if is_loopback(pod.host) and listens_on_loopback_only(pod.port):
            yield pod.url
    for address in addresses_listened_to(launch):
        at = host_port(address)
        if at is not None and at.port is not None and at.is_loopback and listens_on_loopback_only(at.port):
            yield address
    store = parse_shared_state(launch.environment.get("SHARED_STATE", ""))
    for host, port in store.hosts if store else ():
        if is_loopback(host) and listens_on_loopback_only(port):
            yield f"{host}:{port}"


def is_host_renamed(launch: Launch, runtime: ContainerRuntime) -> bool:
    """Whether --pod names this machine's loopback, for which a container gets another name."""
    if runtime.kind is RuntimeKind.PROCESS or runtime.machine or launch.engines_beside:
        return False
    return any(is_loopback(pod.host) for pod in launch.pod_entries)


def pods_asked(launch: Launch) -> tuple[PodEntry, ...]:
    """The pods that the options name by their URL."""
    return with_endpoints_of(launch.pod_entries, launch.endpoints)


def addresses_listened_to(launch: Launch) -> Iterator[str]:
    """The addresses in the options that the service connects to."""
    of_pods = (pod.endpoint for pod in launch.pod_entries)
    for endpoint in (*launch.endpoints, *of_pods):
        if endpoint is not None:
            yield from (address for address in endpoint.addresses if not binds(address))
