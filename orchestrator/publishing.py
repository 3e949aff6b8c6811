"""The addresses and ports of this machine that a launch uses, and the holder of a port that is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from orchestrator.endpoints import ports_to_publish
from orchestrator.errors import Problem, UsageError
from orchestrator.host.ports import is_free, is_local, listener, next_free
from orchestrator.launch import Launch
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind
from orchestrator.runtimes.discovery import answering
from service.contract.endpoints import host_port

_BOUND_BY_ENGINES = {"*": "0.0.0.0", "[::]": "::"}  # noqa: S104 - told apart, not bound


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a service listens on, and the option that names it."""

    address: str
    number: int
    option: str

    def __str__(self) -> str:
        return f"{self.number} of {self.address}"

    def remedy(self) -> str:
        other = next_free(self.address, self.number)
        if self.option == "--port":
            return f"Stop it, or choose another port: kvcache up --port {other}"
        if self.option == "--env METRICS_PORT":
            return f"Stop it, or choose another port: --env METRICS_PORT={other}"
        return f"Stop it, or name another port in {self.option}, such as tcp://*:{other}; engines connect to it."


def ports(launch: Launch, kind: RuntimeKind) -> list[Port]:
    """Ports of this machine that the launch uses; raises UsageError if one cannot be bound."""
    taken = [Port(launch.publish_address, launch.port, "--port")]
    if launch.metrics_port is not None:
        taken.append(Port(launch.publish_address, launch.metrics_port, "--env METRICS_PORT"))
    if kind is RuntimeKind.PROCESS:
        for endpoint in launch.endpoints:
            at = host_port(endpoint.address)
            if endpoint.binds and at is not None and at.port is not None:
                address = _BOUND_BY_ENGINES.get(at.host, at.host.strip("[]"))
                taken.append(Port(address, at.port, "--zmq-endpoint"))
    elif launch.publishes_events:
        published = ports_to_publish(launch.endpoints)
        taken += [Port(launch.publish_address, port, "--zmq-endpoint") for port in published]
    return taken


def all_ports(launches: Iterable[Launch], kind: RuntimeKind) -> list[Port]:
    """Ports of all launches; raises UsageError if two are equal or one cannot be bound."""
    wanted = [port for launch in launches for port in ports(launch, kind)]
    numbers = [port.number for port in wanted]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise UsageError(
            f"Port {twice[0]} is wanted twice.",
            "Give --port, METRICS_PORT and each bound --zmq-endpoint its own; --replicas use consecutive ones.",
        )
    return wanted


def check_address(launch: Launch, runtime: ContainerRuntime) -> None:
    """Raises Problem if the launch's address cannot be published."""
    address = launch.publish_address
    if not runtime.machine and not is_local(address):
        raise Problem(
            f"--publish-address: {address} is not an address of this machine.",
            "Use 127.0.0.1 for this machine alone, 0.0.0.0 for every interface, or one that `ip address` shows.",
        )
    if refusal := runtime.refusal_of_address(address):
        raise Problem(f"--publish-address: {refusal}", "Use 127.0.0.1 or 0.0.0.0, or --runtime process.")


def taken_ports(launches: Iterable[Launch], runtime: ContainerRuntime) -> Iterator[tuple[Port, str]]:
    """Taken ports of the launches, each with its holder if visible."""
    if runtime.machine:
        return
    for port in all_ports(launches, runtime.kind):
        if not is_free(port.address, port.number):
            yield port, holder(port.number, runtime) or "another user"


def holder(port: int, runtime: ContainerRuntime) -> str | None:
    """The container, on any runtime, or the process that holds a port of this machine."""
    if found := runtime.holder_of_port(port):
        return found
    for other in answering(None):
        with closing(other):
            if other.kind is not runtime.kind and (found := other.holder_of_port(port)):
                return f"{found} (on {other.kind})"
    return listener(port)
