from __future__ import annotations

from service.contract.tier_weights import TierWeights
from service.index.base import Rank, RankMatch, Tier
from service.index.scoring import pod_scores

WEIGHTS = TierWeights(gpu=1.0, cpu=0.8, storage=0.5)


def match(pod: str, number: int = 0, **tokens: int) -> RankMatch:
    return RankMatch(Rank(pod, "m", number), 16, {Tier[tier.upper()]: count for tier, count in tokens.items()})


def test_a_score_is_the_matched_tokens_in_units_of_the_block_size() -> None:
    assert pod_scores([match("a", gpu=512), match("b", gpu=128)], WEIGHTS, 256) == {"a": 2, "b": 0.5}


def test_a_whole_score_is_an_integer() -> None:
    scores = pod_scores([match("a", gpu=256), match("b", cpu=320)], WEIGHTS, 256)
    assert [type(score) for score in (scores or {}).values()] == [int, int]


def test_a_token_counts_by_its_tier() -> None:
    assert pod_scores([match("a", gpu=16, cpu=16, storage=16)], WEIGHTS, 16) == {"a": 2.3}


def test_a_pod_has_the_score_of_its_best_rank() -> None:
    assert pod_scores([match("a", 0, gpu=16), match("a", 1, gpu=48), match("a", 2, cpu=48)], WEIGHTS, 16) == {"a": 3}


def test_the_best_pod_comes_first_and_equals_are_in_order_of_their_names() -> None:
    scores = pod_scores([match("c", gpu=16), match("a", gpu=16), match("b", gpu=32)], WEIGHTS, 16)
    assert list(scores or {}) == ["b", "a", "c"]


def test_there_are_no_scores_when_no_pod_has_any() -> None:
    assert pod_scores([], WEIGHTS, 16) is None
    assert pod_scores([match("a", storage=16)], TierWeights(storage=0.0), 16) is None
