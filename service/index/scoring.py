"""Scores: what a router compares pods by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from service.contract.tier_weights import TierWeights
from service.index.base import RankMatch, Tier


def pod_scores(matches: Iterable[RankMatch], weights: TierWeights, block_size: int) -> dict[str, int | float] | None:
    """Each pod's best rank: matched tokens weighted by tier, in units of `block_size` tokens; best pod first.

    A whole score is an int. None when no pod has a score above zero.
    """
    best: dict[str, float] = {}
    last: Mapping[Tier, int] | None = None
    weighted = 0.0
    for match in matches:
        if match.tokens_by_tier is not last:  # ranks that hold as much share it
            last = match.tokens_by_tier
            weighted = 0.0
            for tier, tokens in last.items():
                weighted += weights[tier] * tokens
        if weighted > best.get(match.rank.pod, 0.0):
            best[match.rank.pod] = weighted
    if not best:
        return None
    ordered = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return {pod: _number(round(weighted / block_size, 9)) for pod, weighted in ordered}


def _number(score: float) -> int | float:
    return int(score) if score.is_integer() else score
