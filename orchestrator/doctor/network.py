"""Ports that `up` needs, and engines whose events it would wait for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from orchestrator.doctor.finding import Finding, ok, problem, warning
from orchestrator.errors import UsageError
from orchestrator.host.ports import is_free, listener, listens_on_loopback_only
from orchestrator.launch import Launch
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind
from orchestrator.workload import ports
from service.contract.endpoints import HostPort, binds, host_port

_CONNECT_SECONDS = 2.0


def check_ports(launch: Launch, runtime: ContainerRuntime) -> Iterator[Finding]:
    if runtime.machine:
        return
    try:
        wanted = [launch.port] if runtime.kind is RuntimeKind.PROCESS else ports(launch)
    except UsageError as error:
        yield problem("port", error.what, error.remedy)
        return
    for port in wanted:
        holder = runtime.holder_of_port(port)
        if is_free(launch.publish_address, port):
            yield ok("port", f"{port} of {launch.publish_address} is free")
        elif holder == launch.name:
            yield ok("port", f"{port} of {launch.publish_address} is held by {holder} itself")
        else:
            yield problem(
                "port",
                f"{port} of {launch.publish_address} is taken by {holder or listener(port) or 'another user'}",
                f"Stop it, or choose another: --port {port + 1}",
            )


def check_events(launch: Launch, runtime: ContainerRuntime) -> Iterator[Finding]:
    """Silence is only a warning: an engine may come later."""
    for address in (address for endpoint in launch.endpoints for address in endpoint.addresses):
        found = host_port(address)
        if found is not None and found.port is not None and not binds(address):
            yield _check_publisher(address, found, found.port, contained=runtime.kind is not RuntimeKind.PROCESS)


def _check_publisher(address: str, at: HostPort, port: int, *, contained: bool) -> Finding:
    try:
        socket.create_connection((at.host.strip("[]"), port), _CONNECT_SECONDS).close()
    except OSError as error:
        return warning(
            "events",
            f"nothing answers at {address} ({error.strerror or error})",
            "Start the engine with --kv-events-config; the service connects as soon as it is there.",
        )
    if contained and at.is_loopback and listens_on_loopback_only(port):
        return warning(
            "events",
            f"the engine at {address} listens only on loopback, which a container does not reach",
            f"Let the engine bind tcp://*:{port}, or use --runtime process.",
        )
    return ok("events", f"something answers at {address}")
