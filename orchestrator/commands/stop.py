"""`kvcache stop`, `start` and `restart`: stop a detached service and start it again with the same configuration."""

from __future__ import annotations

import time

from orchestrator.console import Console
from orchestrator.errors import Problem
from orchestrator.health import Answer, ask, backoff, who_answers
from orchestrator.host.ownership import Owner
from orchestrator.readiness import reasons
from orchestrator.runtimes.base import (
    ADDRESS_LABEL,
    INSTANCE_LABEL,
    OWNER_LABEL,
    PORT_LABEL,
    READY_LABEL,
    ContainerRuntime,
    RuntimeKind,
    Service,
)
from orchestrator.runtimes.deployed import found_deployed
from service.contract.settings import Settings

_START_SECONDS = 30.0


def stop(name: str, kind: RuntimeKind | None, console: Console) -> None:
    """Stops the service, or all of its replicas, and keeps them for `start`. Raises Problem."""
    with found_deployed(name, kind) as (runtime, found):
        for service in reversed(found.services):
            _stop(runtime, service, console)


def start(name: str, kind: RuntimeKind | None, console: Console) -> None:
    """Starts what is stopped of a service and waits until all of it answers. Raises Problem."""
    with found_deployed(name, kind) as (runtime, found):
        stopped = [service for service in found.services if not service.running]
        for service in stopped or found.services:
            _start(runtime, service, console)


def restart(name: str, kind: RuntimeKind | None, console: Console) -> None:
    """Stops and starts the service; of several replicas, one after the other, so that one is ready. Raises Problem.

    Their Valkey goes on: what it holds would be lost.
    """
    with found_deployed(name, kind) as (runtime, found):
        several = len(found.replicas) > 1
        for service in found.services:
            if several and service.is_store and service.running:
                continue
            _stop(runtime, service, console)
            _start(runtime, service, console)
            if several and not service.is_store:
                _wait_until_ready(runtime, service, console)


def _stop(runtime: ContainerRuntime, service: Service, console: Console) -> None:
    if runtime.kind is RuntimeKind.PROCESS:
        runtime.resume(service.name)  # raises first: a service that cannot be started again must not be stopped
    owner = Owner.parse(service.labels.get(OWNER_LABEL, ""))
    if owner is not None and owner.lives:
        raise Problem(
            f"The service {service.name} belongs to a `kvcache up` in the foreground (process {owner.pid}).",
            "Press Ctrl+C there, or use kvcache down; `up -d` starts a service that can be stopped and started.",
        )
    console.step(f"Stopping {service.name} on {runtime.kind}...")
    runtime.stop(service.name, service.stop_seconds)
    console.step(f"{runtime.kind.noun.capitalize()} stopped")


def _start(runtime: ContainerRuntime, service: Service, console: Console) -> None:
    if runtime.kind is RuntimeKind.PROCESS:
        runtime.resume(service.name)  # raises: nothing is said to start that does not
    console.step(f"Starting {service.name} on {runtime.kind}...")
    runtime.resume(service.name)
    if service.is_store:
        return  # replicas find it by themselves
    address, port = _published(service)
    deadline = time.monotonic() + _START_SECONDS
    for pause in backoff():
        if who_answers(address, port, service.labels.get(INSTANCE_LABEL, ""), tls=service.tls) is Answer.OURS:
            break
        if not _runs(runtime, service) or time.monotonic() > deadline:
            raise _does_not_come_up(service)
        time.sleep(pause)
    runtime.confirm_health(service.name)
    console.step(f"{runtime.kind.noun.capitalize()} is ready!")


def _wait_until_ready(runtime: ContainerRuntime, service: Service, console: Console) -> None:
    """Waits until the service takes requests, with a warning if that takes longer than it may. Raises Problem."""
    address, port = _published(service)
    deadline = time.monotonic() + _START_SECONDS + _ready_seconds(service)
    console.step(f"Waiting until {service.name} is ready for requests...")
    for pause in backoff():
        answer = ask(address, port, "/ready", tls=service.tls)
        if answer is not None and answer[0] == 200:
            return
        if not _runs(runtime, service):
            raise _does_not_come_up(service)
        if time.monotonic() > deadline:
            why = "; ".join(reasons(answer[1])) if answer else "it does not answer"
            console.warn(f"{service.name} is not ready yet: {why}", f"See why: kvcache logs {service.name} --tail 20")
            return
        time.sleep(pause)


def _ready_seconds(service: Service) -> float:
    """Its READY_REPLAY_TIMEOUT, for which /ready may wait for what the engines replay."""
    given = service.labels.get(READY_LABEL, "")
    return Settings.from_environment({"READY_REPLAY_TIMEOUT": given} if given else {}).ready_replay_timeout


def _published(service: Service) -> tuple[str, int]:
    return service.labels.get(ADDRESS_LABEL, "127.0.0.1"), int(service.labels.get(PORT_LABEL, 8080))


def _runs(runtime: ContainerRuntime, service: Service) -> bool:
    now = runtime.find(service.name)
    return now is not None and now.running


def _does_not_come_up(service: Service) -> Problem:
    return Problem(f"The service {service.name} does not come up.", f"See why: kvcache logs {service.name} --tail 20")
