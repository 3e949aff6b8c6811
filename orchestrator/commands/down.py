"""`kvcache down`: stops and removes services. Also holds the removal code that `up` shares."""

from __future__ import annotations

from contextlib import ExitStack, closing

from orchestrator.console import Console
from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.host.state import forget_service
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind, Service
from orchestrator.runtimes.deployed import Deployed, on_several, wanted
from orchestrator.runtimes.discovery import answering, not_found
from orchestrator.sweep import sweep


def down(name: str, kind: RuntimeKind | None, console: Console, *, every: bool = False) -> None:
    """Stops and removes the named deployment or service, or all of ours on every runtime. Idempotent.

    Raises Problem if several runtimes have the name, or if it found nothing and an installed runtime was unreachable.
    """
    removed = 0
    only = None if every else name
    silent: list[RuntimeUnavailable] = []
    with ExitStack() as stack:
        runtimes = [stack.enter_context(closing(runtime)) for runtime in answering(kind, silent)]
        found = [(runtime, deployment) for runtime in runtimes for deployment in wanted(runtime, only)]
        if not every and len(found) > 1:
            kinds = [runtime.kind for runtime, _ in found]
            which = f"Say which: kvcache down {name} --runtime {kinds[0]}"
            raise on_several(name, kinds, f"{which}; or remove all services: kvcache down --all")
        for runtime, deployment in found:
            _down(runtime, deployment, console)
            removed += 1
        if every:
            for runtime in runtimes:
                sweep(runtime, console)
    if silent and (every or not removed):
        raise not_found("Nothing to remove elsewhere" if removed else "Nothing to remove", silent)
    if not removed:
        console.step("Nothing to remove" if every else f"Nothing to remove: no service named {name}")


def _down(runtime: ContainerRuntime, deployment: Deployed, console: Console) -> None:
    for service in reversed(deployment.services):
        console.step(f"Stopping {service.name} on {runtime.kind}...")
        runtime.stop(service.name, service.stop_seconds)
    remove_deployed(runtime, deployment)
    containers = runtime.kind.noun if len(deployment.services) == 1 else f"{runtime.kind.noun}s"
    noun = containers if deployment.services else "network"
    console.step(f"{noun.capitalize()} removed successfully")


def remove_deployed(runtime: ContainerRuntime, deployment: Deployed) -> None:
    """Removes the services of a deployment, their files on the host, and its networks."""
    for service in reversed(deployment.services):
        remove(runtime, service.name)
    if runtime.networks is not None:
        for network in deployment.networks:
            runtime.networks.remove(network)


def remove(runtime: ContainerRuntime, name: str) -> None:
    """Removes a service of ours and its files on the host."""
    runtime.remove(name)
    forget_service(runtime.kind, name)


def refuse_if_foreign(there: Service) -> None:
    """Raises Problem for a container that is not ours; such a container is never touched."""
    if not there.ours:
        raise Problem(
            f"The name {there.name} is taken by a container that is not ours (image {there.image}, {there.state}).",
            f"Choose another --name, or remove it yourself: {there.runtime} rm -f {there.name}",
        )
