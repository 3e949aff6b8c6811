"""The ports that `up` needs, and the engine endpoints that it connects to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address

from orchestrator.cautions import ON_LOOPBACK, addresses_listened_to, on_loopback_only, pods_asked
from orchestrator.deployment import deployment_of
from orchestrator.doctor.finding import Finding, ok, problem, warning
from orchestrator.errors import Problem
from orchestrator.health import host_and_port
from orchestrator.launch import WITHOUT_KEY, Launch
from orchestrator.publishing import all_ports, check_address, taken_ports
from orchestrator.runtimes.base import ContainerRuntime
from service.contract.endpoints import HostPort, host_port
from service.contract.shared_state import parse_shared_state

_CONNECT_SECONDS = 2.0


def check_ports(launch: Launch, runtime: ContainerRuntime) -> Iterator[Finding]:
    if runtime.machine:
        return
    try:
        check_address(launch, runtime)
        deployment = deployment_of(launch)
        wanted = all_ports(deployment.replicas, runtime.kind)
    except Problem as found:
        yield problem("port", found.what, found.remedy)
        return
    taken = dict(taken_ports(deployment.replicas, runtime))
    for port in wanted:
        if port not in taken:
            yield ok("port", f"{port} is free")
        elif taken[port] in deployment.names:
            yield ok("port", f"{port} is held by {taken[port]} itself")
        else:
            yield problem("port", f"{port} is taken by {taken[port]}", port.remedy())


def check_exposure(launch: Launch) -> Finding:
    """Whether other machines may use the service without a key."""
    if launch.is_open_to_others:
        return warning("access", f"everyone who reaches {launch.publish_address} may use all of the API", WITHOUT_KEY)
    if ip_address(launch.publish_address).is_loopback:
        return ok("access", f"only this machine reaches the service, at {launch.publish_address}")
    if launch.tls_client_ca is not None:
        return ok("access", "a client certificate is needed")
    return ok("access", "an API key is needed")


def check_events(launch: Launch, runtime: ContainerRuntime) -> Iterator[Finding]:
    """Silence is only a warning: an engine may start later."""
    unreached = set(on_loopback_only(launch, runtime))
    for address in addresses_listened_to(launch):
        found = host_port(address)
        if found is not None and found.port is not None:
            yield _check_publisher(address, found, found.port, reached=address not in unreached)


def check_pods(launch: Launch, runtime: ContainerRuntime, silent: set[str] | None = None) -> Iterator[Finding]:
    """Whether the service will reach the pods, from a container if it runs in one.

    Adds the names of pods that do not answer to `silent`.
    """
    unreached = set(on_loopback_only(launch, runtime))
    for pod in pods_asked(launch):
        try:
            socket.create_connection((pod.host, pod.port), _CONNECT_SECONDS).close()
        except OSError as error:
            said = f"nothing answers at {pod.url} ({error.strerror or error})"
            # A name of a network that the container joins is not known here.
            obstacle = warning if launch.networks else problem
            yield obstacle("pod", said, "Start the engine, or correct --pod; the service asks it again and again.")
            if silent is not None:
                silent.add(pod.name)
            continue
        if pod.url in unreached:
            yield warning("pod", f"{pod.url} listens only on loopback, which a container does not reach", ON_LOOPBACK)
        else:
            yield ok("pod", f"something answers at {pod.url}")


def check_shared_state(launch: Launch) -> Iterator[Finding]:
    """Whether something answers where the replicas are to meet. The service starts, and answers, without it."""
    store = parse_shared_state(launch.environment.get("SHARED_STATE", ""))
    for host, port in store.hosts if store else ():
        at = host_and_port(host, port)
        try:
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
        except OSError as error:
            yield warning(
                "shared state",
                f"nothing answers at {at} ({error.strerror or error})",
                "Start the Valkey, or correct SHARED_STATE; until then each replica knows only what it sees itself.",
            )
        else:
            yield ok("shared state", f"something answers at {at}")


def _check_publisher(address: str, at: HostPort, port: int, *, reached: bool) -> Finding:
    try:
        socket.create_connection((at.host.strip("[]"), port), _CONNECT_SECONDS).close()
    except socket.gaierror as error:
        said = f"{at.host} cannot be resolved ({error.strerror or error})"
        return warning("events", said, "Correct the name, or the DNS of this machine.")
    except OSError as error:
        return warning(
            "events",
            f"nothing answers at {address} ({error.strerror or error})",
            "Start the engine with --kv-events-config; the service connects as soon as it is there.",
        )
    if not reached:
        return warning(
            "events",
            f"the engine at {address} listens only on loopback, which a container does not reach",
            f"Let the engine bind tcp://*:{port}, or use --runtime process.",
        )
    return ok("events", f"something answers at {address}")
