"""Counters of the event pool, read by the metrics at scrape time."""

from __future__ import annotations

from collections import Counter

import msgspec

from service.histogram import Histogram


def _lag_seconds() -> Histogram:
    return Histogram((0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0))


class EventStatistics(msgspec.Struct):
    """Messages are counted as received from a socket; each carries one batch of events."""

    messages_received: int = 0
    batches_applied: int = 0
    batches_repeated: int = 0
    """Dropped because they were applied before."""
    batches_lost: int = 0
    """Missed, and not brought by a replay."""
    events_applied: int = 0
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    """Unreadable messages and events, by reason."""
    gaps: int = 0
    replays: int = 0
    replay_failures: int = 0
    snapshots_taken: int = 0
    """Snapshots that engines gave, and that replaced the blocks of their ranks."""
    restarts: int = 0
    claims_refused: Counter[str] = msgspec.field(default_factory=Counter)
    """Refused messages about a rank that another endpoint speaks for, by the address of the endpoint they came from."""
    peers_refused: int = 0
    """Connections that peers= or curve= did not allow."""
    lag_seconds: float = 0.0
    """Seconds from the timestamp of the last batch to its application."""
    lag: Histogram = msgspec.field(default_factory=_lag_seconds)
