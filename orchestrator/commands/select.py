"""`kvcache select`: shows the pod that a running service would send a request to, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.console import terminal
from orchestrator.service_client import ServiceClient

_COLUMNS = ("", "pod", "rank", "first token", "reused tokens", "in flight")


def select(running: ServiceClient, question: Mapping[str, Any], *, as_json: bool) -> None:
    """Sends the request and shows the result. Raises Problem."""
    answer = running.post("/select", question)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    output = terminal()
    output.print(Text(answer["url"]))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in {"", "pod"} else "right", overflow="fold")
    for candidate in answer["candidates"]:
        is_chosen = (candidate["pod"], candidate["rank"]) == (answer["pod"], answer["rank"])
        table.add_row(
            "→" if is_chosen else "",
            Text(candidate["pod"]),
            str(candidate["rank"]),
            f"{candidate['seconds'] * 1000:,.0f} ms",
            f"{candidate['predicted_tokens']:,}",
            str(candidate["in_flight"]),
        )
    output.print(table)
    for left_out in answer["left_out"]:
        output.print(Text(f"left out: {left_out['pod']}: {left_out['reason']}"))
