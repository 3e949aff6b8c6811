"""Which engines are here, which one `up` would take, and whether the name is free on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.doctor.finding import Finding, ok, problem, warning
from orchestrator.errors import EngineUnavailable, Problem
from orchestrator.host.identity import refuse_unreadable
from orchestrator.launch import Launch
from orchestrator.runtimes.base import Engine, EngineKind

Engines = Mapping[EngineKind, Engine | EngineUnavailable]


def check_engines(launch: Launch, engines: Engines, chosen: EngineKind | None) -> Iterator[Finding]:
    """A finding for each engine; a problem only if `up` could not run on what it was asked to, or on anything."""
    for kind, engine in engines.items():
        if isinstance(engine, EngineUnavailable):
            needed = launch.engine is kind or (launch.engine is None and chosen is None)
            yield (problem if needed else warning)(kind, engine.what, engine.remedy)
        else:
            taken = "; `up` takes it" if kind is chosen else ""
            yield ok(kind, f"{engine.description} answers{_privileges(engine)}{taken}")


def _privileges(engine: Engine) -> str:
    if engine.images is None:
        return ""
    return ", rootless" if engine.rootless else ", rootful"


def check_name(launch: Launch, engine: Engine) -> Finding:
    there = engine.find(launch.name)
    if there is None:
        return ok("name", f"{launch.name} is free")
    if there.ours:
        return ok("name", f"{launch.name} is a service of ours ({there.state})")
    return problem(
        "name",
        f"{launch.name} is taken by a container that is not ours (image {there.image})",
        f"Choose another --name, or remove it yourself: {there.engine} rm -f {there.name}",
    )


def check_folders(launch: Launch, engine: Engine) -> Finding | None:
    """Whether the engine can give the service the folders that the launch names; None if it names none."""
    # Only looks: what `up` would have to make or to give away is left to it.
    if launch.models_dir is None and launch.hf_cache is None:
        return None
    if engine.machine:
        return problem(
            "folders",
            f"the engine is on {engine.machine}, which cannot mount folders of this machine",
            "Use an engine of this machine.",
        )
    if launch.models_dir and engine.images is not None:
        try:
            refuse_unreadable(launch.models_dir)
        except Problem as found:
            return problem("folders", found.what, found.remedy)
    return ok("folders", "can be mounted")
