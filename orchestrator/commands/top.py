"""`kvcache top`: the pods of a running service, live."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.console import terminal
from orchestrator.errors import Problem
from orchestrator.exposition import totals
from orchestrator.service_client import ServiceClient

_REASONS_SHOWN = 5
_LOOKUPS = ("kvcache_index_lookup_requests_total", "kvcache_index_lookup_hits_total")


@dataclass(frozen=True, slots=True)
class RankView:
    """One prefix cache between two polls; `batches_per_second` is None at the first."""

    pod: str
    rank: int
    model: str
    gpu: int
    cpu: int
    storage: int
    batches_per_second: float | None
    last_event_age_seconds: float | None
    connected: bool
    exact: bool
    inexact_reason: str | None


@dataclass(frozen=True, slots=True)
class View:
    """The service between two polls. Rates are per second, None at the first poll; `hit_rate` covers the time since
    start.
    """

    url: str
    replicas: int
    answering: int
    """Replicas that answer; what is not of all of them is of the first that does."""
    blocks: int
    events_per_second: float | None
    lookups_per_second: float | None
    hit_rate: float | None
    lag_seconds: float
    queue_depth: int
    ranks: tuple[RankView, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """All replicas at one moment: `metrics` are those of one, but lookups, which are those of all."""

    at: float
    answering: int
    metrics: dict[str, float]
    ranks: list[dict[str, Any]]

    @classmethod
    def at_service(cls, running: Sequence[ServiceClient]) -> _Look:
        """Leaves replicas out that do not answer. Raises Problem if none does."""
        answers = []
        for replica in running:
            try:
                answers.append((totals(replica.text("/metrics")), replica.get("/pods")["pods"]))
            except Problem:
                if replica is running[-1] and not answers:
                    raise
        metrics, ranks = zip(*answers, strict=True)
        lookups = {name: sum(each.get(name, 0.0) for each in metrics) for name in _LOOKUPS}
        return cls(time.monotonic(), len(answers), {**metrics[0], **lookups}, _common(ranks))


def _common(listed: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The ranks that the first replica lists; one is exact and connected if it is so for all replicas."""
    if len(listed) == 1:
        return listed[0]
    of_all: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for rank in (rank for ranks in listed for rank in ranks):
        of_all.setdefault(_identity(rank), []).append(rank)
    return [
        {
            **rank,
            "exact": all(same["exact"] for same in of_all[_identity(rank)]),
            "connected": all(same["connected"] for same in of_all[_identity(rank)]),
            "inexact_reason": next(filter(None, (same["inexact_reason"] for same in of_all[_identity(rank)])), None),
        }
        for rank in listed[0]
    ]


def _identity(rank: dict[str, Any]) -> tuple[Any, ...]:
    return rank["pod"], rank["model"], rank["rank"]


def top(running: Sequence[ServiceClient], *, interval: float, count: int | None, as_json: bool) -> None:
    """Refreshes every `interval` seconds, `count` times or until Ctrl+C. Raises Problem if no replica answers."""
    output = terminal()
    live = output.is_terminal and not as_json and count is None
    views = _views(running, interval, count if live or count else 1)
    if live:
        with Live(console=output, screen=True, auto_refresh=False) as screen:
            for view in views:
                screen.update(frame(view), refresh=True)
        return
    for view in views:
        if as_json:
            typer.echo(json.dumps(asdict(view)))
        else:
            output.print(frame(view))


def _views(running: Sequence[ServiceClient], interval: float, count: int | None) -> Iterator[View]:
    before = _Look.at_service(running)
    if count is None:
        yield _view(running, None, before)  # show the first view without delay
    shown = 0
    while count is None or shown < count:
        time.sleep(interval)
        look = _Look.at_service(running)
        yield _view(running, before, look)
        before, shown = look, shown + 1


def _view(running: Sequence[ServiceClient], before: _Look | None, now: _Look) -> View:
    metrics = now.metrics
    lookups = metrics.get("kvcache_index_lookup_requests_total", 0.0)
    last = {} if before is None else {_identity(rank): rank for rank in before.ranks}

    def rate(name: str) -> float | None:
        if before is None:
            return None
        return max(0.0, metrics.get(name, 0.0) - before.metrics.get(name, 0.0)) / (now.at - before.at)

    def batches(rank: dict[str, Any]) -> float | None:
        known = last.get(_identity(rank))
        if before is None or known is None:
            return None
        published = (rank["last_sequence"] or 0) - (known["last_sequence"] or 0)
        return max(0, published) / (now.at - before.at)

    return View(
        url=running[0].url,
        replicas=len(running),
        answering=now.answering,
        blocks=int(metrics.get("kvcache_index_blocks", 0)),
        events_per_second=rate("kvcache_events_applied_total"),
        lookups_per_second=rate("kvcache_index_lookup_requests_total"),
        hit_rate=metrics.get("kvcache_index_lookup_hits_total", 0.0) / lookups if lookups else None,
        lag_seconds=metrics.get("kvcache_events_last_lag_seconds", 0.0),
        queue_depth=int(metrics.get("kvcache_events_queue_depth", 0)),
        ranks=tuple(
            RankView(
                pod=rank["pod"],
                rank=rank["rank"],
                model=rank["model"],
                **rank["blocks"],
                batches_per_second=batches(rank),
                last_event_age_seconds=rank["last_event_age_seconds"],
                connected=rank["connected"],
                exact=rank["exact"],
                inexact_reason=rank["inexact_reason"],
            )
            for rank in now.ranks
        ),
    )


def frame(view: View) -> RenderableType:
    """A view of 80 columns."""
    hit_rate = "-" if view.hit_rate is None else f"{view.hit_rate:.1%}"
    several = f"   {view.answering} of {view.replicas} replicas answer" if view.replicas > 1 else ""
    head = Text.assemble(("kvcache top", "bold"), f"  {view.url}{several}")
    numbers = (
        f"blocks {view.blocks:,}   events {_number(view.events_per_second)}/s   "
        f"lookups {_number(view.lookups_per_second)}/s   found something {hit_rate}"
    )
    queue = f"lag {_age(view.lag_seconds)}   waiting {view.queue_depth:,}"
    if not view.ranks:
        return Group(head, Text(numbers), Text(queue), Text(), Text("No engine has announced anything yet."))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("pod", overflow="fold")
    for name in ("gpu", "cpu", "storage", "batches/s", "last event", "state"):
        table.add_column(name, justify="left" if name == "state" else "right")
    for rank in view.ranks:
        state, style = _state(rank)
        table.add_row(
            Text(f"{rank.pod} rank {rank.rank}" if rank.rank else rank.pod),
            f"{rank.gpu:,}",
            f"{rank.cpu:,}",
            f"{rank.storage:,}",
            _number(rank.batches_per_second),
            _age(rank.last_event_age_seconds),
            Text(state, style=style),
        )
    reasons = [Text(f"{rank.pod}: {rank.inexact_reason}", style="yellow") for rank in view.ranks if rank.inexact_reason]
    return Group(head, Text(numbers), Text(queue), Text(), table, *reasons[:_REASONS_SHOWN])


def _state(rank: RankView) -> tuple[str, str]:
    if not rank.connected:
        return "lost", "red"
    return ("exact", "green") if rank.exact else ("inexact", "yellow")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
