"""How much a cached token counts in a score."""

from __future__ import annotations

from typing import NamedTuple


class TierWeights(NamedTuple):
    """Weight of a token in each tier, from 0 to 1, in the order of service.index.base.Tier."""

    gpu: float = 1.0
    cpu: float = 0.8
    storage: float = 0.5
