"""The output of `kvcache demo`: a live view of 80 columns and 24 lines, or one line per request in a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.contract.demo_lines import CACHE_AWARE, Ended, PodTally, PolicyTally, Routed, Started

_WIDTH = 80
_CACHED_SHOWN, _NEW_SHOWN = 150, 160
_FRAMES_PER_SECOND = 10
_DIFFERENCES_SHOWN = 20


class DemoView:
    """Shows requests as they are routed, then a summary. `terminal` selects the form."""

    def __init__(self, terminal: Terminal, started: Started, runtime: str) -> None:
        self._terminal = terminal
        self._started = started
        self._runtime = runtime
        self._live: Live | None = None
        self._differences = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._terminal.is_terminal:
            self._terminal.print(Text(f"Playing conversations against {self._title()}"))
            yield
            return
        with Live(
            console=self._terminal, refresh_per_second=_FRAMES_PER_SECOND, transient=True, vertical_overflow="crop"
        ) as self._live:
            yield

    def routed(self, request: Routed) -> None:
        self._differences += len(request.differences)
        if self._live is not None:
            self._live.update(self.frame(request))
        elif self._terminal.is_terminal:
            self._terminal.print(self.frame(request))
        else:
            self._terminal.print(Text(_plain(request)), soft_wrap=True)

    def frame(self, request: Routed) -> RenderableType:
        return Group(
            self._head(request),
            Text(),
            self._pods(request.pods, request.pod),
            Text(),
            *_conversation(request),
            Text(),
            Text("prefix-hit rate and mean time to first token on the same requests", style="bold"),
            _policies(request.policies),
            Text(),
            self._check(request),
        )

    def ended(self, end: Ended) -> None:
        policies = Table(box=None, padding=(0, 2, 0, 0), width=_WIDTH - 4)
        for name in ("routing", "tokens", "reused", "hit rate", "mean first token", "p50", "p99"):
            policies.add_column(name, justify="left" if name == "routing" else "right")
        for tally in end.policies:
            policies.add_row(
                tally.policy,
                f"{tally.prompt_tokens:,}",
                f"{tally.reused_tokens:,}",
                f"{tally.hit_rate:.1%}",
                *map(_time, (tally.first_token_mean, tally.first_token_p50, tally.first_token_p99)),
                style="bold" if tally is end.policies[0] else "",
            )
        self._terminal.print(Text(f"{end.requests:,} requests in {end.seconds:.1f} s to {self._title()}"))
        self._terminal.print(Text())
        self._terminal.print(policies)
        self._terminal.print(Text())
        self._terminal.print(self._pods(end.pods, None))
        self._terminal.print(Text())
        self._show_differences(end)

    def _show_differences(self, end: Ended) -> None:
        for difference in end.differences[:_DIFFERENCES_SHOWN]:
            self._terminal.print(Text(difference, style="red"))
        if (more := len(end.differences) - _DIFFERENCES_SHOWN) > 0:
            self._terminal.print(Text(f"… and {more:,} more", style="red"))
        self._terminal.print(_verdict(end.predictions, len(end.differences)))

    def _title(self) -> str:
        run = self._started
        return f"{len(run.pods)} engines of {run.blocks} blocks of {run.block_size} tokens (seed {run.seed})"

    def _head(self, request: Routed) -> RenderableType:
        started = self._started
        done = f"{request.number}/{started.requests}" if started.requests else f"{request.number}"
        line = Table.grid(expand=False)
        line.add_column(width=_WIDTH - 22)
        line.add_column(width=21, justify="right")
        line.add_row(
            Text.assemble(
                ("kvcache demo", "bold"), f" on {self._runtime}, {len(started.pods)} engines, seed {started.seed}"
            ),
            Text(f"{done} in {request.seconds:.0f} s"),
        )
        return line

    def _pods(self, tallies: Sequence[PodTally], chosen: str | None) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), width=_WIDTH - 4)
        table.add_column("pod")
        table.add_column("blocks")
        table.add_column("", justify="right")
        for name in ("requests", "hit rate", "evictions"):
            table.add_column(name, justify="right")
        for tally in tallies:
            rate = tally.reused_tokens / tally.prompt_tokens if tally.prompt_tokens else 0.0
            table.add_row(
                tally.pod,
                _bar(self._started.blocks, tally.blocks_held, 16, "cyan"),
                f"{tally.blocks_held:,}",
                f"{tally.requests:,}",
                f"{rate:.1%}",
                f"{tally.evictions:,}",
                style="bold cyan" if tally.pod == chosen else "",
            )
        return table

    def _check(self, request: Routed) -> Text:
        so_far = request.number * (len(self._started.pods) + 1)
        return _verdict(so_far, self._differences)


def _conversation(request: Routed) -> list[RenderableType]:
    """The prompt, split where the chosen pod's cached prefix ends."""
    share = Table.grid(padding=(0, 2, 0, 0))
    share.add_row(
        _bar(request.prompt_tokens, request.reused, 38, "green"),
        f"{request.reused:,} of {request.prompt_tokens:,} tokens reused",
    )
    text, border = request.text.replace("\n", " "), request.cached_characters
    cached, new = text[max(0, border - _CACHED_SHOWN) : border], text[border : border + _NEW_SHOWN]
    prompt = Text.assemble(
        "…" if border > _CACHED_SHOWN else "", (cached, "green"), (new, "yellow"), "…" if len(text) > border else ""
    )
    lines = prompt.wrap(Terminal(width=_WIDTH), _WIDTH - 4)[:5]
    lines.extend([Text()] * (5 - len(lines)))
    title = Text.assemble(
        (f"conversation {request.conversation}, turn {request.turn}", "bold"), " → ", (request.pod, "bold cyan")
    )
    return [title, share, *lines]


def _policies(tallies: Sequence[PolicyTally]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for tally in tallies:
        colour = "green" if tally is tallies[0] else "yellow"
        table.add_row(
            tally.policy,
            _bar(1.0, tally.hit_rate, 38, colour),
            f"{tally.hit_rate:>6.1%}",
            _time(tally.first_token_mean).rjust(8),
        )
    return table


def _time(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _bar(total: float, part: float, width: int, colour: str) -> ProgressBar:
    return ProgressBar(total, part, width=width, complete_style=colour, finished_style=colour)


def _verdict(predictions: int, differences: int) -> Text:
    return Text(
        f"{predictions:,} predictions held against what the engines did: "
        + ("no difference" if not differences else f"{differences:,} DIFFERENCES"),
        style="red bold" if differences else "green",
    )


def _plain(request: Routed) -> str:
    predicted = request.predicted[request.pod]
    said = textwrap.shorten("; ".join(request.differences), 200)
    return (
        f"{request.number}: conversation {request.conversation} turn {request.turn}, {request.prompt_tokens} tokens "
        f"-> {request.pod}, predicted {predicted}, reused {request.reused}, first token "
        f"{_time(request.first_token[CACHE_AWARE])}{f' ({said})' if said else ''}"
    )
