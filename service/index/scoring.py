"""Scores: what a router compares pods by, in the operator's unit and weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import or_
from typing import TypeAlias

from service.contract.tier_weights import TierWeights
from service.index.base import Index, Matches, Prompt, RankMatch, Tier

Scores: TypeAlias = dict[str, int | float] | None
"""Score by pod, best first; null when no pod holds any of the prompt."""


def pod_scores(matches: Iterable[RankMatch], weights: TierWeights, block_size: int) -> Scores:
    """Each pod's best rank: matched tokens weighted by tier, in units of `block_size` tokens; best pod first.

    A whole score is an int. None when no pod has a score above zero.
    """
    found: dict[str, int | float] = {}
    last: Mapping[Tier, int] | None = None
    score: int | float = 0
    for match in matches:
        if match.tokens_by_tier is not last:  # ranks that hold as much share it
            last = match.tokens_by_tier
            score = _score(last, weights, block_size)
        if score > found.get(match.rank.pod, 0):
            found[match.rank.pod] = score
    return dict(sorted(found.items(), key=_best_first)) or None


def together_scores(matches: Matches, weights: TierWeights, block_size: int, most: int) -> Scores:
    """As `pod_scores`, of the best `most` pods: the others cost nothing."""
    runs = [(_score(run.tokens_by_tier, weights, block_size), run.groups) for run in matches.runs]
    scores: dict[str, int | float] = {}
    for score in sorted({score for score, _ in runs if score > 0}, reverse=True):
        if len(scores) == most:
            break
        matches.order.add_scores(scores, reduce(or_, (groups for value, groups in runs if value == score)), score, most)
    alone = pod_scores(matches.alone, weights, block_size) if matches.alone else None
    return _merged(scores, alone, most) if alone else scores or None


def _merged(some: dict[str, int | float], others: dict[str, int | float], most: int) -> Scores:
    """The best scores of both, best first."""
    higher = {pod: max(some.get(pod, 0), others.get(pod, 0)) for pod in {**some, **others}}
    return dict(sorted(higher.items(), key=_best_first)[:most])


def _score(tokens_by_tier: Mapping[Tier, int], weights: TierWeights, block_size: int) -> int | float:
    weighted = 0.0
    for tier, tokens in tokens_by_tier.items():
        weighted += weights[tier] * tokens
    score = round(weighted / block_size, 9)
    return int(score) if score.is_integer() else score


def _best_first(scored: tuple[str, int | float]) -> tuple[float, str]:
    return -scored[1], scored[0]


class Scorer:
    """Looks up prompts and scores pods by their best rank."""

    def __init__(self, index: Index, tier_weights: TierWeights, block_size: int) -> None:
        """`block_size` is the number of tokens for a score of 1."""
        self._index = index
        self._tier_weights = tier_weights
        self._block_size = block_size

    def matches(self, prompt: Prompt) -> list[RankMatch]:
        return self._index.match(prompt)

    def matches_together(self, prompt: Prompt) -> Matches:
        return self._index.match_together(prompt)

    def scores_of(self, matches: Iterable[RankMatch]) -> Scores:
        """The score of each pod that has a match, best first; None if no pod has one."""
        return pod_scores(matches, self._tier_weights, self._block_size)

    def scores(self, prompt: Prompt, most: int = sys.maxsize) -> Scores:
        """The score of each pod that holds a prefix of the prompt; of the best `most` pods, if given."""
        return together_scores(self._index.match_together(prompt), self._tier_weights, self._block_size, most)


def sum_scores(several: Sequence[Scores], most: int = sys.maxsize) -> Scores:
    """The sums of each pod's scores, best first; None if no pod has one."""
    if len(several) == 1:
        return best(several[0], most)
    total: dict[str, int | float] = {}
    for scores in several:
        for pod, score in (scores or {}).items():
            total[pod] = total.get(pod, 0) + score
    ordered = sorted(total.items(), key=_best_first)[:most]
    return {pod: int(score) if score == int(score) else round(score, 9) for pod, score in ordered} or None


def best(scores: Scores, most: int) -> Scores:
    """The first `most` scores."""
    return scores if scores is None or len(scores) <= most else dict(islice(scores.items(), most))
