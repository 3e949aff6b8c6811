"""Applies batches to the index, with counters and logs."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import time

from service.events.arrival import Arrival
from service.events.large_batches import slices
from service.events.rate_limited_log import RateLimitedLog
from service.events.sequencer import Notice
from service.events.statistics import EventStatistics
from service.events.wire import Batch, Cleared, Event, read_batch
from service.index.base import Index, PackedBatches, Rank, Removed, Stored, Tier

logger = logging.getLogger(__name__)
_MAX_WAITING_BATCHES = 10_000
_MAX_WAITING_EVENTS = 4_000_000
APPLIES_LARGE_BATCH = "a large batch is being applied"
_IS_CAPTURED = "batches wait until its blocks are read for a snapshot"


class IndexSink:
    """Applies the batches of one rank to an index. Implements sequencer.Sink.

    A large batch, and what comes after it, waits for `apply_slice`; `defer` is called with the sink when that begins.
    Batches that need not be decoded are counted by `settle`; `opened` is called with the sink before the first of them.
    `applied` is called with the rank after each change of its blocks.
    """

    __slots__ = (
        "_applied",
        "_dates",
        "_defer",
        "_events",
        "_held",
        "_hidden",
        "_index",
        "_log",
        "_loss",
        "_opened",
        "_plain",
        "_rank",
        "_slices",
        "_statistics",
        "_waiting",
        "_waiting_events",
        "_write",
        "changes",
        "events_applied",
        "holds_blocks",
        "lag_seconds",
        "last_event_at",
    )

    def __init__(
        self,
        rank: Rank,
        index: Index,
        statistics: EventStatistics,
        log: RateLimitedLog,
        defer: Callable[[IndexSink], None] = lambda sink: None,
        *,
        applied: Callable[[Rank], None] = lambda rank: None,
        opened: Callable[[IndexSink], None] = lambda sink: None,
    ) -> None:
        self.last_event_at: float | None = None
        """Unix seconds."""
        self.lag_seconds: float | None = None
        """Seconds from the timestamp of the last batch to its application."""
        self.events_applied = 0
        self.holds_blocks = False
        self.changes = 0
        """Number of changes of the rank's blocks."""
        self._rank = rank
        self._index = index
        self._statistics = statistics
        self._log = log
        self._hidden = False
        self._defer = defer
        self._applied = applied
        self._waiting: deque[Batch] = deque()
        self._waiting_events = 0
        self._slices: Iterator[Batch] = iter(())
        self._loss: str | None = None
        self._held = False
        self._opened = opened
        self._plain: PackedBatches | None = None
        self._write: Callable[[bytes, float], float | None] | None = None
        self._dates: list[float] = []
        """Of batches that were not decoded, or not from the first event on, and are not counted yet."""
        self._events = 0
        """Of these batches, as far as they are known."""

    @property
    def inexact_reason(self) -> str | None:
        """Why the index may differ from the batches that `apply` was given; None if it does not."""
        if self._loss is not None or not self._waiting:
            return self._loss
        return _IS_CAPTURED if self._held else APPLIES_LARGE_BATCH

    @property
    def loss(self) -> str | None:
        """Why some event is missing in the index until it is cleared; None if none is."""
        return self._loss

    def restore(self, loss: str | None, last_event_at: float | None) -> None:
        """Continues a rank whose blocks are in the index already."""
        self._loss, self.last_event_at, self.holds_blocks = loss, last_event_at, True

    def hold(self) -> bool:
        """Lets batches wait until `release`, so that the rank's blocks stay as they are.

        False, without effect, while a large batch is being applied.
        """
        self.settle()
        self._held = not self._waiting
        return self._held

    def release(self) -> None:
        """Lets the batches that wait since `hold` be applied."""
        self._held = False
        if self._waiting:
            self._defer(self)

    def apply(self, arrival: Arrival) -> bool:
        self.settle()
        batch = arrival.batch
        if self._waiting or self._held or batch.packed is not None:
            self._wait(batch)
            return False
        return self._apply(batch)

    def apply_packed(self, payload: bytes, since: float) -> float | None:
        write = self._write or self._open()
        date = write(payload, since) if write is not None else None
        if date is not None:
            self._dates.append(date)
        return date

    def _open(self) -> Callable[[bytes, float], float | None] | None:
        self._plain = None if self._waiting or self._held else self._index.plain_group(self._rank)
        if self._plain is None:
            return None
        self._write = self._plain.open(self._finish)
        self._opened(self)
        return self._write

    def _finish(self, payload: bytes, applied: int) -> None:
        """Decodes a batch, and applies its events after the first `applied`, which are in the index already."""
        self._settle_plain()
        events = read_batch(payload).events[applied:]
        self._apply_events(events)
        self._events += len(events)

    def settle(self) -> None:
        """Counts the batches that were not decoded. To be called before anything else changes the rank."""
        self._settle_plain()
        if dates := self._dates:
            events, self._events, self._dates = self._events, 0, []
            self._count(events, len(dates), dates)

    def _settle_plain(self) -> None:
        if self._plain is not None:
            self._events += self._plain.settle()
            self._plain = self._write = None

    def _wait(self, batch: Batch) -> None:
        """Lets a batch wait for `apply_slice`. Too many are dropped, and the rank stays inexact until it is cleared."""
        events = _number_of_events(batch)
        if len(self._waiting) >= _MAX_WAITING_BATCHES or self._waiting_events + events > _MAX_WAITING_EVENTS:
            self._loss = "too many events wait to be applied"
            return
        self._waiting.append(batch)
        self._waiting_events += events
        self.holds_blocks = True
        if len(self._waiting) == 1:
            self._slices = slices(batch)
            if not self._held:
                self._defer(self)

    def apply_slice(self) -> bool:
        """Applies some of the events that wait; True while more wait that may be applied."""
        if not self._waiting or self._held:
            return False
        try:
            if (batch := next(self._slices, None)) is not None:
                self._apply(batch)
                for reason in batch.unread:
                    self._loss = f"an event could not be read ({reason})"
                return True
        except Exception as error:
            self._loss = "a part of a batch could not be applied"
            notice = "A part of a batch of %s could not be applied: %r"
            self._log.log(logging.ERROR, self._rank, notice, rank_name(self._rank), error)
            return True
        self._waiting_events -= _number_of_events(self._waiting.popleft())
        if not self._waiting:
            return False
        self._slices = slices(self._waiting[0])
        return True

    def _apply(self, batch: Batch) -> bool:
        cleared = self._apply_events(batch.events)
        for reason, count in batch.unread.items():
            count_skipped(self._statistics, self._log, self._rank, reason, count)
        self._count(len(batch.events), 1, () if batch.timestamp is None else (batch.timestamp,))
        return cleared

    def _apply_events(self, events: Sequence[Event]) -> bool:
        cleared = False
        pools: Iterator[Tier | None] | None = None
        rank, index = self._rank, self._index
        for event in events:
            if isinstance(event, Stored):
                index.store(rank, event)
                self.holds_blocks = True
            elif isinstance(event, Removed):
                index.remove(rank, event)
            elif isinstance(event, Cleared) and event.tier is not None:
                index.clear_tier(rank, event.tier)
            elif isinstance(event, Cleared):
                pools = emptied_pools(events) if pools is None else pools
                cleared |= index.engine_cleared(rank, next(pools))
        return cleared

    def _count(self, events: int, batches: int, dates: Sequence[float]) -> None:
        """Counts batches that were applied; `dates` are theirs, as far as they have any."""
        statistics = self._statistics
        self.events_applied += events
        statistics.events_applied += events
        statistics.batches_applied += batches
        self.changes += batches
        self.last_event_at = now = time()
        if dates:
            lags = [max(0.0, now - date) for date in dates]
            self.lag_seconds = statistics.lag_seconds = lags[-1]
            statistics.lag.observe_all(lags)
        self._applied(self._rank)

    def clear(self) -> None:
        self.settle()
        self._drop_waiting()
        self._loss = None
        self.changes += 1
        self._index.clear(self._rank)
        self._applied(self._rank)

    def hide(self) -> None:
        self._hidden = True
        self._index.hide(self._rank)

    def unhide(self) -> None:
        if self._hidden:
            self._hidden = False
            self._index.unhide(self._rank)

    def forget(self) -> None:
        self.settle()
        self._drop_waiting()
        self.changes += 1
        self._index.forget(self._rank)

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_events = 0

    def report(self, notice: Notice, count: int, reason: str) -> None:
        statistics, rank = self._statistics, self._rank
        match notice:
            case Notice.REPEATED:
                statistics.batches_repeated += count
            case Notice.GAP:
                statistics.gaps += count
            case Notice.LOST:
                statistics.batches_lost += count
            case Notice.RESTARTED:
                statistics.restarts += count
                self._log.log(logging.WARNING, rank, "%s restarted: its blocks are gone", rank_name(rank))
            case Notice.INEXACT:
                self._log.log(logging.WARNING, rank, "%s is inexact: %s", rank_name(rank), reason)
            case Notice.REPLAY_STARTED:
                statistics.replays += count
            case Notice.SNAPSHOT_TAKEN:
                statistics.snapshots_taken += count
                self._log.log(logging.INFO, rank, "%s is as the snapshot of its engine", rank_name(rank))
            case Notice.REPLAY_FAILED:
                statistics.replay_failures += count
                self._log.log(logging.WARNING, rank, "No replay of %s: %s", rank_name(rank), reason)


def _number_of_events(batch: Batch) -> int:
    return len(batch.events) if batch.packed is None else batch.packed.count


def emptied_pools(events: Sequence[Event]) -> Iterator[Tier | None]:
    """The tier whose block pool each `AllBlocksCleared` of a batch emptied; None where that cannot be told.

    vLLM publishes the events of the device's pool before those of connectors.
    """
    tiers = [event.tier if isinstance(event, Stored | Removed) else None for event in events]
    last_of_device = max((position for position, tier in enumerate(tiers) if tier is Tier.GPU), default=-1)
    first_below = next((position for position, tier in enumerate(tiers) if tier is Tier.CPU), len(tiers))
    for position, event in enumerate(events):
        if isinstance(event, Cleared) and event.tier is None:
            yield Tier.GPU if position < last_of_device else Tier.CPU if position > first_below else None


def count_skipped(
    statistics: EventStatistics, log: RateLimitedLog, subject: object, reason: str, count: int = 1
) -> None:
    """Counts and logs unreadable messages or events."""
    statistics.skipped[reason] += count
    log.log(logging.WARNING, subject, "Skipped %d of %s: %s", count, rank_name(subject), reason)


def rank_name(subject: object) -> str:
    """The name of a rank, or of another subject, in log lines."""
    if isinstance(subject, Rank):
        return f"{subject.pod} ({subject.model}, rank {subject.number})"
    return str(subject)
