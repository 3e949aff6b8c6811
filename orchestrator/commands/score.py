"""`kvcache score`: shows as bars how much of a prompt each pod of a running service holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.console import terminal
from orchestrator.errors import UsageError
from orchestrator.service_client import ServiceClient

_BAR = 30


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, or a chat file (`-`: standard input), and the other fields that affect block hashes."""

    prompt: str | None
    chat: Path | None
    model: str | None
    lora_name: str | None
    cache_salt: str | None

    def body(self) -> dict[str, Any]:
        """Builds the request body. Raises UsageError."""
        if (self.prompt is None) == (self.chat is None):
            raise UsageError("Give a text or --chat FILE, and not both.", 'Example: kvcache score "Once upon a time"')
        body = {"prompt": self.prompt} if self.chat is None else _chat(self.chat)
        named = {"model": self.model, "lora_name": self.lora_name, "cache_salt": self.cache_salt}
        return {**body, **{name: value for name, value in named.items() if value is not None}}


def score(running: ServiceClient, question: Mapping[str, Any], *, as_json: bool) -> None:
    """Sends the request and shows the result. Raises Problem."""
    answer = running.post("/explain", question)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    output = terminal()
    lora = f" with {answer['lora_name']}" if answer["lora_name"] else ""
    output.print(Text(f"{answer['tokens']:,} tokens of {answer['model']}{lora}"))
    pods = _best_ranks(answer["matches"])
    others = {pod["pod"] for pod in running.get("/pods")["pods"] if pod["model"] == answer["model"]} - set(pods)
    if not pods and not others:
        output.print(Text("No engine has announced a block of this model yet."))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, justify in (("pod", "left"), ("", "left"), ("tokens", "right"), ("", "right"), ("score", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for pod, match in pods.items():
        table.add_row(*_row(pod, answer["tokens"], match["matched_tokens"], answer["pod_scores"].get(pod, 0)))
    for pod in sorted(others):
        table.add_row(*_row(pod, answer["tokens"], 0, 0))
    output.print(table)


def _row(pod: str, tokens: int, matched: int, scored: float) -> tuple[Text, ProgressBar, str, str, str]:
    bar = ProgressBar(max(tokens, 1), matched, width=_BAR, complete_style="green", finished_style="green")
    return Text(pod), bar, f"{matched:,}", f"{matched / max(tokens, 1):.0%}", f"{scored:g}"


def _best_ranks(matches: list[dict[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Each pod's best rank, best pod first, in the service's order."""
    best: dict[str, Mapping[str, Any]] = {}
    for match in matches:
        best.setdefault(match["pod"], match)
    return best


def _chat(path: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        chat = json.loads(text)
    except OSError as error:
        raise UsageError(f"--chat: {path}: {error.strerror}.", "Name a file with a chat request in JSON.") from error
    except ValueError as error:
        raise UsageError(f"--chat: {path} is not JSON: {error}.", 'Example: {"messages": [{"role": …}]}') from error
    if isinstance(chat, list):
        return {"messages": chat}
    if not isinstance(chat, dict) or "messages" not in chat:
        raise UsageError(f"--chat: {path} holds no messages.", 'Example: {"messages": [{"role": …}]}')
    return chat
