"""All checks, in the order in which `up` would meet the problems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

from orchestrator.doctor.engine import check_engines
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.hub import check_model, check_token
from orchestrator.doctor.image import check_image, check_valkey
from orchestrator.doctor.listening import check_listening
from orchestrator.doctor.machine import check_machine
from orchestrator.doctor.network import check_events, check_exposure, check_pods, check_ports, check_shared_state
from orchestrator.doctor.parity import check_parity
from orchestrator.doctor.runtime import check_folders, check_names, check_runtimes
from orchestrator.errors import RuntimeUnavailable
from orchestrator.launch import Launch
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind
from orchestrator.runtimes.discovery import connect


def findings(launch: Launch) -> Iterator[Finding]:
    silent: set[str] = set()  # pods that do not answer, which is said once
    with ExitStack() as stack:
        runtimes: dict[RuntimeKind, ContainerRuntime | RuntimeUnavailable] = {}
        for kind in RuntimeKind if launch.runtime is None else (launch.runtime,):
            try:
                runtimes[kind] = stack.enter_context(closing(connect(kind)))
            except RuntimeUnavailable as error:
                runtimes[kind] = error
        runtime = next((runtime for runtime in runtimes.values() if not isinstance(runtime, RuntimeUnavailable)), None)
        yield from check_runtimes(launch, runtimes, runtime.kind if runtime else None)
        if runtime is not None:
            yield from _on(launch, runtime, silent)
        yield from check_shared_state(launch)
        yield from check_machine()
        yield from check_listening(launch)
        yield from check_engines(launch, silent)
        yield from check_parity(launch, silent)
        yield check_model(launch)
        yield check_token(launch)


def _on(launch: Launch, runtime: ContainerRuntime, silent: set[str]) -> Iterator[Finding]:
    yield from check_names(launch, runtime)
    yield from check_ports(launch, runtime)
    yield check_exposure(launch)
    yield from check_folders(launch, runtime)
    if runtime.images is not None:
        yield from check_image(launch, runtime.images)
        yield from check_valkey(launch, runtime.images)
    yield from check_pods(launch, runtime, silent)
    yield from check_events(launch, runtime)
