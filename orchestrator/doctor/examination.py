"""The examination: all checks, in the order in which `up` would meet what they look for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict

import typer
from rich.console import Console as Terminal

from orchestrator.doctor.finding import Finding, Severity
from orchestrator.doctor.hub import check_model, check_token
from orchestrator.doctor.image import check_image
from orchestrator.doctor.network import check_events, check_ports
from orchestrator.doctor.runtime import check_folders, check_name, check_runtimes
from orchestrator.errors import RuntimeUnavailable
from orchestrator.launch import Launch
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind
from orchestrator.runtimes.discovery import connect

_STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}


def examine(launch: Launch, *, as_json: bool) -> None:
    """Prints what the checks find; raises typer.Exit(1) if something would stop `up`."""
    found = []
    terminal = Terminal(highlight=False, emoji=False, soft_wrap=True)
    for finding in findings(launch):
        found.append(finding)
        if not as_json:
            terminal.print(f"{finding.severity:<8} ", style=_STYLES[finding.severity], end="")
            terminal.print(f"{finding.check}: {finding.text}", markup=False)
            if finding.remedy:
                terminal.print(f"{'':9}{finding.remedy}", markup=False)
    if as_json:
        typer.echo(json.dumps([{**asdict(finding), "verdict": finding.severity} for finding in found], indent=2))
    if any(finding.severity is Severity.PROBLEM for finding in found):
        raise typer.Exit(1)


def findings(launch: Launch) -> Iterator[Finding]:
    """What each check finds, as it finds it."""
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
            yield from _on(launch, runtime)
        yield check_model(launch)
        yield check_token(launch)


def _on(launch: Launch, runtime: ContainerRuntime) -> Iterator[Finding]:
    yield check_name(launch, runtime)
    yield from check_ports(launch, runtime)
    if folders := check_folders(launch, runtime):
        yield folders
    if runtime.images is not None:
        yield from check_image(launch, runtime.images)
    yield from check_events(launch, runtime)
