"""`kvcache doctor`: prints the findings of the checks in orchestrator/doctor."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.console import Console as Terminal

from orchestrator.doctor.examination import findings
from orchestrator.doctor.finding import Severity
from orchestrator.launch import Launch

_STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}


def examine(launch: Launch, *, as_json: bool) -> None:
    """Prints the findings; raises typer.Exit(1) if one is a problem."""
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
