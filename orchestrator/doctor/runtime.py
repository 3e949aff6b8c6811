"""Checks which runtimes are available, which one `up` would take, and whether the name is free on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.deployment import check_runtime, deployment_of
from orchestrator.doctor.finding import Finding, ok, problem, warning
from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.host.identity import refuse_unreadable
from orchestrator.host.models_folder import objections, parts
from orchestrator.launch import Launch
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind

Runtimes = Mapping[RuntimeKind, ContainerRuntime | RuntimeUnavailable]


def check_runtimes(launch: Launch, runtimes: Runtimes, chosen: RuntimeKind | None) -> Iterator[Finding]:
    """A finding for each runtime; a problem only if `up` cannot run on the requested runtime, or on any."""
    for kind, runtime in runtimes.items():
        if isinstance(runtime, RuntimeUnavailable):
            needed = launch.runtime is kind or (launch.runtime is None and chosen is None)
            yield (problem if needed else warning)(kind, runtime.what, runtime.remedy)
        else:
            taken = "; `up` takes it" if kind is chosen else ""
            yield ok(kind, f"{runtime.description} answers{_privileges(runtime)}{taken}")


def _privileges(runtime: ContainerRuntime) -> str:
    if runtime.images is None:
        return ""
    return ", rootless" if runtime.rootless else ", rootful"


def check_names(launch: Launch, runtime: ContainerRuntime) -> Iterator[Finding]:
    """Whether the names of all containers of the launch are free."""
    try:
        check_runtime(launch, runtime.kind)
    except Problem as found:
        yield problem("replicas", found.what, found.remedy)
        return
    for name in deployment_of(launch).names:
        yield _check_name(name, launch.name, runtime)


def _check_name(name: str, deployment: str, runtime: ContainerRuntime) -> Finding:
    there = runtime.find(name)
    if there is None:
        return ok("name", f"{name} is free")
    if not there.ours:
        return problem(
            "name",
            f"{name} is taken by a container that is not ours (image {there.image})",
            f"Choose another --name, or remove it yourself: {there.runtime} rm -f {there.name}",
        )
    if there.deployment != deployment:
        return problem("name", f"{name} is taken by the service {there.deployment}", "Choose another --name.")
    return ok("name", f"{name} is a service of ours ({there.state})")


def check_folders(launch: Launch, runtime: ContainerRuntime) -> Iterator[Finding]:
    """Whether the runtime can mount the launch's folders, and the models in them are found."""
    # Read-only: `up` itself creates folders and changes their owner.
    if launch.models_dir is None and launch.hf_cache is None:
        return
    if runtime.machine:
        yield problem(
            "folders",
            f"the runtime is on {runtime.machine}, which cannot mount folders of this machine",
            "Use a runtime of this machine.",
        )
        return
    mounted = parts(launch.models_dir) if launch.models_dir and runtime.images is not None else []
    try:
        for part in mounted:
            refuse_unreadable(part.source)
    except Problem as found:
        yield problem("folders", found.what, found.remedy)
        return
    objected = list(objections(launch.models_dir)) if launch.models_dir else []
    yield from (warning("folders", objection.what, objection.remedy) for objection in objected)
    if not objected:
        several = f", in {len(mounted)} parts, since links lead out of it" if len(mounted) > 1 else ""
        yield ok("folders", f"can be mounted{several}")
