from __future__ import annotations

import sys
from random import Random

import pytest

from service.contract.tier_weights import TierWeights
from service.index.base import Rank, RankMatch, Removed, Tier
from service.index.memory import MemoryIndex
from service.index.scoring import Scorer, pod_scores, sum_scores
from tests.service.index.blocks import prompt, stored

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


@pytest.mark.parametrize("seed", range(12))
def test_pods_are_scored_together_as_one_by_one(seed: int) -> None:
    random = Random(seed)
    index = MemoryIndex(sys.maxsize)
    scorer = Scorer(index, WEIGHTS, 16)
    ranks = [Rank(f"pod{random.randrange(30)}", "m", number % 3) for number in range(40)]
    for _ in range(300):
        rank = random.choice(ranks)
        block = random.randrange(1, 9)
        match random.randrange(8):
            case 0:
                index.remove(rank, Removed([block]))
            case 1:
                index.clear(rank)
            case 2 if seed % 2:
                index.store(rank, stored(*range(1, block), tier=random.choice((Tier.CPU, Tier.STORAGE))))
            case 3 if seed % 3 == 0:
                index.drop_last_block(rank)
            case 4:
                index.hide(rank)
            case 5:
                index.unhide(rank)
            case _:
                index.store(rank, stored(*range(1, block)))
        asked = prompt(*range(1, 9), pods=["pod1", "pod2"] if random.random() < 0.1 else None)
        matches = index.match(asked)
        expected = list((pod_scores(matches, WEIGHTS, 16) or {}).items())
        assert list((scorer.scores(asked) or {}).items()) == expected
        most = random.randrange(1, 10)
        assert list((scorer.scores(asked, most) or {}).items()) == expected[:most]
    assert expected


def test_the_best_of_several_prompts_are_those_of_the_sums() -> None:
    assert sum_scores([{"a": 3, "b": 2}, {"b": 2}, None], 1) == {"b": 4}
    assert sum_scores([{"a": 3, "b": 2}], 1) == {"a": 3}
    assert sum_scores([None], 1) is None
