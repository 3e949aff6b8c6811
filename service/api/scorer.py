"""Converts prefix matches to scores, in the operator's unit and weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.api.responses import Scores
from service.contract.tier_weights import TierWeights
from service.index.base import Index, Prompt, RankMatch
from service.index.scoring import pod_scores


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
