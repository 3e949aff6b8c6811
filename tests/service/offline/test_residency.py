from __future__ import annotations

from array import array

import pytest

from service.index.base import Rank, Stored, Tier
from service.offline.residency import Residency

A, B = Rank("a", "m"), Rank("b", "m")


def stored(hashes: list[int], tokens: list[int], parent: int | None = None, tier: Tier = Tier.GPU) -> Stored:
    return Stored(hashes, parent, array("I", tokens), 2, tier)


def test_the_lifetime_of_a_block_spans_all_its_tiers() -> None:
    residency = Residency()
    residency.stored(A, stored([1], [5, 6]), now=10.0)
    residency.stored(A, stored([1], [], tier=Tier.CPU), now=12.0)
    residency.removed(A, 1, Tier.GPU, None, now=13.0)
    assert residency.lifetimes.count == 0
    residency.removed(A, 1, Tier.CPU, None, now=20.0)
    assert residency.lifetimes.count == 1
    assert residency.lifetimes.mean == pytest.approx(10.0)


def test_pods_share_a_block_only_if_all_tokens_before_it_are_equal() -> None:
    residency = Residency()
    residency.stored(A, stored([1, 2], [5, 6, 7, 8]), now=0)
    residency.stored(B, stored([100, 200], [5, 6, 9, 9]), now=0)
    assert residency.sharing() == {1: 2, 2: 1}
    assert residency.shared_blocks() == {"a": (2, 1), "b": (2, 1)}
    residency.cleared(B)
    assert residency.sharing() == {1: 2}


def test_a_prefix_counts_the_blocks_that_no_other_prefix_of_its_rank_has() -> None:
    residency = Residency()
    residency.stored(A, stored([1, 2, 3], [1, 1, 2, 2, 3, 3]), now=0)
    residency.stored(A, stored([4], [4, 4], parent=1), now=0)
    residency.stored(B, stored([7, 8, 9], [1, 1, 2, 2, 3, 3]), now=0)
    longest = [(one.rank.pod, one.tokens, one.own_blocks, one.pods) for one in residency.longest_prefixes(3)]
    assert sorted(longest) == [("a", 4, 1, 1), ("a", 6, 2, 2), ("b", 6, 3, 2)]


def test_a_chain_with_a_missing_block_is_not_a_prefix_until_the_block_is_stored() -> None:
    residency = Residency()
    residency.stored(A, stored([1, 2, 3], [1, 1, 2, 2, 3, 3]), now=0)
    residency.removed(A, 2, Tier.GPU, None, now=1)
    assert [one.tokens for one in residency.longest_prefixes(3)] == [2]
    residency.stored(A, stored([2], [2, 2], parent=1), now=2)
    assert [one.tokens for one in residency.longest_prefixes(3)] == [6]
