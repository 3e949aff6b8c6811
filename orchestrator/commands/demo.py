"""`kvcache demo`: starts the service and simulated engines, and plays conversations through its gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace

import typer
from rich.console import Console as Terminal

from orchestrator.commands.demo_view import DemoView
from orchestrator.commands.up import up
from orchestrator.console import Console
from orchestrator.errors import Problem, ToolFailed
from orchestrator.health import url
from orchestrator.host.ports import free_ports
from orchestrator.host.state import make_service_folder
from orchestrator.launch import Launch
from orchestrator.runtimes.base import ContainerRuntime
from service.contract.demo_lines import Ended, Routed, Started, read_line

MODEL = "builtin/demo"
REQUESTS = 300
_RATE_ON_A_TERMINAL = 20.0


@dataclass(frozen=True, slots=True)
class Play:
    """The parameters of a demo; it ends after `requests` or `duration` seconds. `rate` is in requests per second."""

    pods: int
    blocks: int
    block_size: int
    seed: int
    requests: int | None
    duration: float | None
    rate: float | None
    keep: bool
    as_json: bool


def demo(launch: Launch, play: Play) -> int:
    """Starts everything, plays, stops everything; returns exit code 1 if a prediction was wrong. Raises Problem.

    Port 0 means any free port.
    """
    terminal = Terminal(highlight=False, emoji=False, soft_wrap=False)
    launch = replace(
        launch,
        model=MODEL,
        names_model=True,
        port=launch.port or free_ports(launch.publish_address, 1)[0],
        zmq_endpoint="",  # no events besides those of the engines that join
        block_size=play.block_size,
        engines_beside=True,
        keeps_state=False,
    )
    run = _Demo(launch, play, terminal)
    up(launch, Console(quiet=play.as_json), run.play)
    return run.exit_code


class _Demo:
    """Plays one run while the service is up."""

    def __init__(self, launch: Launch, play: Play, terminal: Terminal) -> None:
        self._launch = launch
        self._play = play
        self._terminal = terminal
        self.exit_code = 130  # until the player exits

    def play(self, runtime: ContainerRuntime) -> None:
        with closing(runtime.run_tool(self._launch.name, self._arguments())) as lines:
            try:
                end = self._watch(lines, runtime)
            except ToolFailed as failure:
                raise Problem("The simulated engines failed.", failure.remedy, failure.details) from failure
            self.exit_code = 1 if end.differences else 0
            if self._play.keep:
                self._print_next_steps(runtime, end)
                for _ in lines:
                    pass

    def _arguments(self) -> list[str]:
        play, launch = self._play, self._launch
        rate = play.rate or (_RATE_ON_A_TERMINAL if self._terminal.is_terminal and not play.as_json else None)
        wanted = {
            "--url": f"http://127.0.0.1:{launch.port}",
            "--pods": play.pods,
            "--blocks": play.blocks,
            "--block-size": play.block_size,
            "--seed": play.seed,
            "--requests": play.requests or (None if play.duration else REQUESTS),
            "--duration": play.duration,
            "--rate": rate,
        }
        given = [f"{name}={value}" for name, value in wanted.items() if value is not None]
        return ["demonstrate", *given, *(["--stay"] if play.keep else [])]

    def _watch(self, lines: Iterator[str], runtime: ContainerRuntime) -> Ended:
        started = read_line(next(lines))
        assert isinstance(started, Started)  # noqa: S101 - the tool writes it first
        view = DemoView(self._terminal, started, runtime.kind)
        with ExitStack() as stack:
            if not self._play.as_json:
                stack.enter_context(view.shown())
            for line in map(read_line, lines):
                if isinstance(line, Routed) and not self._play.as_json:
                    view.routed(line)
                elif isinstance(line, Ended):
                    end = line
                    break
        if self._play.as_json:
            typer.echo(json.dumps(_document(started, end, runtime.kind), indent=2))
        else:
            view.ended(end)
        return end

    def _print_next_steps(self, runtime: ContainerRuntime, end: Ended) -> None:
        """Prints example requests for a service that stays up."""
        chat = make_service_folder(runtime.kind, self._launch.name) / "chat.json"
        chat.write_text(json.dumps({"model": MODEL, "messages": end.last_messages}))
        address = url(runtime.machine or self._launch.publish_address, self._launch.port)
        for line in (
            "All of it stays up. Ask for yourself:",
            f"  curl -s {address}/pods",
            f"  curl -s {address}/metrics",
            f"  curl -s {address}/score_completions -H 'Content-Type: application/json' -d @{chat}",
            f"  kvcache score --name {self._launch.name} --chat {chat}",
            f"  kvcache top --name {self._launch.name}",
            "Press Ctrl+C to stop",
        ):
            typer.echo(line, err=self._play.as_json)


def _document(started: Started, end: Ended, runtime: str) -> dict[str, object]:
    document = {"runtime": runtime, "engine": runtime, **asdict(started), **asdict(end)}
    del document["last_messages"]
    document["policies"] = [{**asdict(tally), "hit_rate": round(tally.hit_rate, 4)} for tally in end.policies]
    return document
