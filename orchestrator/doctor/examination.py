"""The examination: all checks, in the order in which `up` would meet what they look for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict

import typer
from rich.console import Console as Terminal

from orchestrator.doctor.finding import Finding, Verdict
from orchestrator.doctor.hub import check_model, check_token
from orchestrator.doctor.image import check_image
from orchestrator.doctor.network import check_events, check_ports
from orchestrator.doctor.runtime import check_engines, check_folders, check_name
from orchestrator.errors import EngineUnavailable
from orchestrator.launch import Launch
from orchestrator.runtimes.base import Engine, EngineKind
from orchestrator.runtimes.discovery import connect

_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}


def examine(launch: Launch, *, as_json: bool) -> None:
    """Prints what the checks find; raises typer.Exit(1) if something would stop `up`."""
    found = []
    terminal = Terminal(highlight=False, emoji=False, soft_wrap=True)
    for finding in findings(launch):
        found.append(finding)
        if not as_json:
            terminal.print(f"{finding.verdict:<8} ", style=_STYLES[finding.verdict], end="")
            terminal.print(f"{finding.check}: {finding.text}", markup=False)
            if finding.remedy:
                terminal.print(f"{'':9}{finding.remedy}", markup=False)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    if any(finding.verdict is Verdict.PROBLEM for finding in found):
        raise typer.Exit(1)


def findings(launch: Launch) -> Iterator[Finding]:
    """What each check finds, as it finds it."""
    with ExitStack() as stack:
        engines: dict[EngineKind, Engine | EngineUnavailable] = {}
        for kind in EngineKind if launch.engine is None else (launch.engine,):
            try:
                engines[kind] = stack.enter_context(closing(connect(kind)))
            except EngineUnavailable as error:
                engines[kind] = error
        engine = next((engine for engine in engines.values() if not isinstance(engine, EngineUnavailable)), None)
        yield from check_engines(launch, engines, engine.kind if engine else None)
        if engine is not None:
            yield from _on(launch, engine)
        yield check_model(launch)
        yield check_token(launch)


def _on(launch: Launch, engine: Engine) -> Iterator[Finding]:
    yield check_name(launch, engine)
    yield from check_ports(launch, engine)
    if folders := check_folders(launch, engine):
        yield folders
    if engine.images is not None:
        yield from check_image(launch, engine.images)
    yield from check_events(launch, engine)
