"""Scores: what a router compares pods by, in the operator's unit and weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from service.contract.tier_weights import TierWeights
from service.index.base import Index, Prompt, RankMatch, Tier

Scores: TypeAlias = dict[str, int | float] | None
"""Score by pod, best first; null when no pod holds any of the prompt."""


def pod_scores(matches: Iterable[RankMatch], weights: TierWeights, block_size: int) -> Scores:
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
    scores: dict[str, int | float] = {}
    former, score = 0.0, 0.0
    for pod, weighted in sorted(best.items(), key=lambda item: (-item[1], item[0])):
        if weighted != former:  # pods that hold as much share the number
            former, score = weighted, _number(round(weighted / block_size, 9))
        scores[pod] = score
    return scores


def _number(score: float) -> int | float:
    return int(score) if score.is_integer() else score


class Scorer:
    """Looks up prompts and scores pods by their best rank."""

    def __init__(self, index: Index, tier_weights: TierWeights, block_size: int) -> None:
        """`block_size` is the number of tokens for a score of 1."""
        self._index = index
        self._tier_weights = tier_weights
        self._block_size = block_size

    def matches(self, prompt: Prompt) -> list[RankMatch]:
        return self._index.match(prompt)

    def scores_of(self, matches: Iterable[RankMatch]) -> Scores:
        """The score of each pod that has a match, best first; None if no pod has one."""
        return pod_scores(matches, self._tier_weights, self._block_size)

    def scores(self, prompt: Prompt) -> Scores:
        """The score of each pod that holds a prefix of the prompt."""
        return pod_scores(self._index.match(prompt), self._tier_weights, self._block_size)


def sum_scores(several: Sequence[Scores]) -> Scores:
    if len(several) == 1:
        return several[0]
    total: dict[str, int | float] = {}
    for scores in several:
        for pod, score in (scores or {}).items():
            total[pod] = total.get(pod, 0) + score
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return {pod: int(score) if score == int(score) else round(score, 9) for pod, score in ordered} or None
