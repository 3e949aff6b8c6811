"""Services grouped as they were started: the replicas and the Valkey of one deployment belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
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


def wanted(runtime: ContainerRuntime, name: str | None) -> list[Deployed]:
    """All deployments of ours on a runtime; with a name, the deployment or service that has it, if there is one."""
    there = deployed(runtime)
    if name is None:
        return there
    found = named(there, name)
    return [] if found is None else [found]


@contextmanager
def found_deployed(name: str, kind: RuntimeKind | None) -> Iterator[tuple[ContainerRuntime, Deployed]]:
    """The deployment or service of that name and its runtime.

    Raises Problem if no runtime has one, or several have.
    """
    silent: list[RuntimeUnavailable] = []
    with ExitStack() as stack:
        runtimes = [stack.enter_context(closing(runtime)) for runtime in answering(kind, silent)]
        found = [(runtime, one) for runtime in runtimes for one in wanted(runtime, name) if one.services]
        if not found:
            raise no_service(name, silent)
        if len(found) > 1:
            kinds = [runtime.kind for runtime, _ in found]
            raise on_several(name, kinds, f"Say which, for example: --runtime {kinds[0]}")
        yield found[0]


def no_service(name: str, silent: list[RuntimeUnavailable]) -> Problem:
    """No runtime has a service of that name; `silent` are those that did not answer."""
    if silent:
        return not_found(f"There is no service named {name}", silent)
    return Problem(f"There is no service named {name}.", "See kvcache status, or start it: kvcache up")


def on_several(name: str, kinds: Sequence[RuntimeKind], remedy: str) -> Problem:
    """Each runtime has names of its own, so that one name may stand for several services."""
    return Problem(f"There is a service named {name} on {' and on '.join(kinds)}.", remedy)


def _place(service: Service) -> tuple[bool, int, str]:
    number = re.search(r"\d+$", service.name)
    return not service.is_store, int(number[0]) if number else 0, service.name
