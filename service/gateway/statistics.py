"""Counters of the gateway, read by the metrics when they are scraped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class GatewayStatistics:
    """Retries in all; by pod: failed attempts with their kind, refusals with their status, streams that broke off."""

    retries: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken_streams: Counter[str] = field(default_factory=Counter)
