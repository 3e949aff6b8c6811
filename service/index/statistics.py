"""Plain counters, cheap to increment on the hot path; the metrics read them at each scrape."""

from __future__ import annotations

import msgspec

from service.histogram import Histogram


def _lookup_seconds() -> Histogram:
    return Histogram((0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1))


class IndexStatistics(msgspec.Struct):
    """Counters of an index since its creation. A copy on one tier of one rank counts as one block."""

    admissions: int = 0
    """Blocks added to ranks."""
    evictions: int = 0
    """Blocks removed because their engine removed them."""
    displaced: int = 0
    """Blocks evicted to keep to the index's limit, although their engines hold them."""
    cleared: int = 0
    """Blocks of ranks that were cleared or forgotten."""
    unknown_parents: int = 0
    """Blocks ignored because their parent block is unknown."""
    unknown_blocks: int = 0
    """Unknown hashes that were removed, or stored without tokens."""
    lookups: int = 0
    lookup_hits: int = 0
    """Lookups that found at least one rank with a prefix of the prompt."""
    lookup_seconds: Histogram = msgspec.field(default_factory=_lookup_seconds)
