"""Counters of the gateway, read by the metrics when they are scraped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class GatewayStatistics:
    """Total retries; per pod: failed attempts by kind, refusals by status, broken streams."""

    retries: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken_streams: Counter[str] = field(default_factory=Counter)
