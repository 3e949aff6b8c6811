"""Services grouped as they were started: the replicas and the Valkey of one deployment belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.runtimes.base import NAME_LABEL, ContainerRuntime, RuntimeKind, Service
from orchestrator.runtimes.discovery import answering, not_found


@dataclass(frozen=True, slots=True)
class Deployed:
    """The services of one deployment on a runtime: the Valkey first, then the replicas by number."""

    name: str
    services: tuple[Service, ...]
    networks: tuple[str, ...] = ()

    @property
    def replicas(self) -> tuple[Service, ...]:
        return tuple(service for service in self.services if not service.is_store)

    @property
    def is_one_service(self) -> bool:
        """Whether it is a service that was started alone."""
        return [service.name for service in self.services] == [self.name]


def deployed(runtime: ContainerRuntime) -> list[Deployed]:
    """All deployments of ours, also those of which only the network is left, by name."""
    services: dict[str, list[Service]] = {}
    networks: dict[str, list[str]] = {}
    for service in runtime.services():
        services.setdefault(service.deployment, []).append(service)
    for network, labels in (runtime.networks.ours() if runtime.networks else {}).items():
        networks.setdefault(labels[NAME_LABEL], []).append(network)
    return [
        Deployed(name, tuple(sorted(services.get(name, ()), key=_place)), tuple(networks.get(name, ())))
        for name in sorted({*services, *networks})
    ]


def named(deployments: Iterable[Deployed], name: str) -> Deployed | None:
    """The deployment with this name; else the container with it, which may be one of several replicas."""
    found = list(deployments)
    for deployment in found:
        if deployment.name == name:
            return deployment
    services = (service for deployment in found for service in deployment.services)
    return next((Deployed(name, (service,)) for service in services if service.name == name), None)


@contextmanager
def found_deployed(name: str, kind: RuntimeKind | None) -> Iterator[tuple[ContainerRuntime, Deployed]]:
    """The deployment or service of that name and its runtime, the first that has one. Raises Problem if none has."""
    silent: list[RuntimeUnavailable] = []
    for runtime in answering(kind, silent):
        with closing(runtime):
            found = named(deployed(runtime), name)
            if found is not None and found.services:
                yield runtime, found
                return
    if silent:
        raise not_found(f"There is no service named {name}", silent)
    raise Problem(f"There is no service named {name}.", "See kvcache status, or start it: kvcache up")


def _place(service: Service) -> tuple[bool, int, str]:
    number = re.search(r"\d+$", service.name)
    return not service.is_store, int(number[0]) if number else 0, service.name
