"""Plain counters, cheap to bump on a hot path and read by the metrics at scrape time."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.histogram import Histogram


def _lookup_seconds() -> Histogram:
    return Histogram((0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1))


@dataclass(slots=True)
class IndexStatistics:
    """What an index did since it was made. A copy on one tier of one rank counts as one block."""

    admissions: int = 0
    """Blocks that a rank came to hold."""
    evictions: int = 0
    """Blocks that a rank ceased to hold because its engine said so."""
    displaced: int = 0
    """Blocks let go to keep to the bound, though their engines hold them."""
    cleared: int = 0
    """Blocks of ranks that were cleared or forgotten."""
    unknown_parents: int = 0
    """Blocks left out because the index does not know the block before them."""
    unknown_blocks: int = 0
    """Hashes without tokens, or removed, that the index does not know."""
    lookups: int = 0
    lookup_hits: int = 0
    """Lookups that found at least one rank with a prefix of the prompt."""
    lookup_seconds: Histogram = field(default_factory=_lookup_seconds)
