"""Applies batches to the index, with counters and logs."""

from __future__ import annotations

import logging
from time import time

from service.events.arrival import Arrival
from service.events.rate_limited_log import RateLimitedLog
from service.events.sequencer import Notice
from service.events.statistics import EventStatistics
from service.events.wire import Cleared
from service.index.base import Index, Rank, Removed, Stored

logger = logging.getLogger(__name__)


class IndexSink:
    """Applies the batches of one rank to an index. Implements sequencer.Sink."""

    __slots__ = ("_hidden", "_index", "_log", "_rank", "_statistics", "holds_blocks", "last_event_at")

    def __init__(self, rank: Rank, index: Index, statistics: EventStatistics, log: RateLimitedLog) -> None:
        self.last_event_at: float | None = None
        """Unix seconds."""
        self.holds_blocks = False
        self._rank = rank
        self._index = index
        self._statistics = statistics
        self._log = log
        self._hidden = False

    def apply(self, arrival: Arrival) -> bool:
        cleared = False
        rank, index, statistics, batch = self._rank, self._index, self._statistics, arrival.batch
        for event in batch.events:
            if isinstance(event, Stored):
                index.store(rank, event)
                self.holds_blocks = True
            elif isinstance(event, Removed):
                index.remove(rank, event)
            elif isinstance(event, Cleared):
                cleared |= index.engine_cleared(rank)
        for reason, count in batch.unread.items():
            count_skipped(statistics, self._log, rank, reason, count)
        statistics.events_applied += len(batch.events)
        statistics.batches_applied += 1
        self.last_event_at = now = time()
        if batch.timestamp is not None:
            lag = now - batch.timestamp
            statistics.lag_seconds = lag = lag if lag > 0 else 0.0
            statistics.lag.observe(lag)
        return cleared

    def clear(self) -> None:
        self._index.clear(self._rank)

    def hide(self) -> None:
        self._hidden = True
        self._index.hide(self._rank)

    def unhide(self) -> None:
        if self._hidden:
            self._hidden = False
            self._index.unhide(self._rank)

    def forget(self) -> None:
        self._index.forget(self._rank)

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
            case Notice.REPLAY_FAILED:
                statistics.replay_failures += count
                self._log.log(logging.WARNING, rank, "No replay of %s: %s", rank_name(rank), reason)


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
