"""Lower tiers: offloading connectors, stores beside the engine, and what clearing a cache leaves in doubt."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from service.index.base import Removed, Stored, Tier
from service.index.inexact_reasons import InexactReason
from service.index.memory import MemoryIndex
from tests.service.index.blocks import SIZE, A, matches, only, stored, tokens


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex(max_blocks=10_000)


def full(*blocks: int, **changes: Any) -> Stored:
    return stored(*blocks, group=0, kind="full_attention", **changes)


def offloaded(*blocks: int) -> Stored:
    """What a connector says of blocks without describing them."""
    return Stored(blocks, None, array("I"), 0, Tier.CPU, group=0)


def evict(index: MemoryIndex, *blocks: int) -> None:
    index.remove(A, Removed(blocks, group=0))


def test_lower_tiers_go_on_where_the_device_s_prefix_ends(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2, 3, 4))
    index.store(A, stored(2, parent=1, tier=Tier.CPU))
    index.remove(A, Removed([2]))
    assert only(index, 1, 2, 3, 4).tokens_by_tier == {Tier.GPU: SIZE, Tier.CPU: SIZE}


def test_chunks_that_events_describe_are_reused_whole(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4))
    index.store(A, full(1, 2, tier=Tier.CPU))
    evict(index, 4, 3, 2, 1)
    assert matches(index, 1, 2, 3, 4) == {A: 2}
    assert matches(index, 1, 9) == {}


def test_the_size_of_chunks_follows_from_which_blocks_are_named(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4, 5))
    index.store(A, offloaded(2, 4))
    evict(index, 5, 4, 3, 2, 1)
    assert matches(index, 1, 2, 3, 4, 5) == {A: 4}
    assert matches(index, 1, 2, 3) == {A: 2}
    assert index.inexact_reason(A) is None


def test_without_the_stores_before_it_the_size_of_chunks_is_unknown(index: MemoryIndex) -> None:
    index.store(A, full(1, 2))
    for number in range(10, 90):
        index.store(A, full(number))
    index.store(A, offloaded(2))
    assert index.inexact_reason(A) == InexactReason.CHUNK_SIZE


def test_a_store_beside_the_engine_is_an_alternative_to_the_device(index: MemoryIndex) -> None:
    chunk = Stored([91], None, tokens(1, 2, 3, 4), 4 * SIZE, Tier.CPU)
    index.store(A, chunk)
    index.store(A, full(1, 2))
    assert only(index, 1, 2, 3, 4).tokens_by_tier == {Tier.GPU: 2 * SIZE, Tier.CPU: 2 * SIZE}
    assert only(index, 1, 2, 9).tokens_by_tier == {Tier.GPU: 2 * SIZE}
    index.remove(A, Removed([91], Tier.CPU))
    assert only(index, 1, 2, 3, 4).tokens_by_tier == {Tier.GPU: 2 * SIZE}


@pytest.fixture
def reset(index: MemoryIndex) -> MemoryIndex:
    """An index whose engine cleared a cache while blocks 1 to 3 were on the device and below it."""
    index.store(A, full(1, 2, 3))
    index.store(A, full(1, tier=Tier.CPU))
    index.store(A, full(2, parent=1, tier=Tier.CPU))
    index.store(A, full(3, parent=2, tier=Tier.CPU))
    assert not index.engine_cleared(A)
    return index


def test_clearing_the_engine_leaves_lower_tiers_in_doubt(reset: MemoryIndex) -> None:
    assert only(reset, 1, 2).tokens_by_tier == {Tier.CPU: 2 * SIZE}
    assert reset.inexact_reason(A) == InexactReason.CLEARED_TIER
    assert reset.disagreements() == []


def test_a_removal_from_a_lower_tier_tells_that_it_was_not_cleared(reset: MemoryIndex) -> None:
    reset.remove(A, Removed([3], Tier.CPU, group=0))
    assert matches(reset, 1, 2, 3) == {A: 2}
    assert reset.inexact_reason(A) is None


def test_a_store_of_what_a_connector_holds_tells_that_its_tier_was_cleared(reset: MemoryIndex) -> None:
    reset.store(A, full(1))
    reset.store(A, full(1, tier=Tier.CPU))
    assert matches(reset, 1, 2, 3) == {A: 1}
    assert reset.inexact_reason(A) is None
    assert reset.disagreements() == []


def test_what_a_connector_does_not_store_again_before_what_follows_it_is_there(reset: MemoryIndex) -> None:
    reset.store(A, full(1, 2, 3, 4))
    reset.store(A, full(4, parent=3, tier=Tier.CPU))
    assert reset.inexact_reason(A) is None
    assert matches(reset, 1, 2, 3, 4) == {A: 4}


def test_a_reset_of_a_connector_alone_shows_when_it_stores_a_chunk_again(index: MemoryIndex) -> None:
    index.store(A, full(1))
    index.store(A, full(1, tier=Tier.CPU))
    assert index.inexact_reason(A) is None
    index.store(A, full(1, tier=Tier.CPU))
    assert index.inexact_reason(A) == InexactReason.CLEARED_TIER
    index.remove(A, Removed([1], Tier.CPU, group=0))
    evict(index, 1)
    assert matches(index, 1) == {}


def test_of_several_resets_each_is_in_doubt_by_itself(reset: MemoryIndex) -> None:
    reset.store(A, full(7))
    reset.store(A, full(7, tier=Tier.CPU))
    reset.engine_cleared(A)
    reset.remove(A, Removed([7], Tier.CPU, group=0))
    assert reset.inexact_reason(A) == InexactReason.CLEARED_TIER
    reset.remove(A, Removed([3], Tier.CPU, group=0))
    assert reset.inexact_reason(A) is None
    assert matches(reset, 1, 2, 3) == {A: 2}


def test_a_pool_below_the_device_announces_its_own_resets(index: MemoryIndex) -> None:
    for pool, left in ((Tier.GPU, Tier.CPU), (Tier.CPU, Tier.GPU)):
        index.store(A, full(1, 2))
        index.store(A, full(1, 2, tier=Tier.CPU, is_pool=True))
        assert not index.engine_cleared(A, pool)
        assert only(index, 1, 2).tokens_by_tier == {left: 2 * SIZE}
        assert index.inexact_reason(A) is None
        index.clear(A)


def test_a_pool_whose_reset_is_no_other_event_s_neighbour_stays_in_doubt(index: MemoryIndex) -> None:
    index.store(A, full(1, 2))
    index.store(A, full(1, 2, tier=Tier.CPU, is_pool=True))
    index.engine_cleared(A)
    index.store(A, full(1, tier=Tier.CPU, is_pool=True))
    assert index.inexact_reason(A) == InexactReason.CLEARED_TIER
    index.remove(A, Removed([2], Tier.CPU, group=0))
    assert index.inexact_reason(A) is None


def test_clearing_an_engine_without_lower_tiers_empties_it(index: MemoryIndex) -> None:
    index.store(A, full(1, 2))
    index.store(A, full(9, parent=8))
    assert index.engine_cleared(A)
    assert matches(index, 1, 2) == {}
    assert index.inexact_reason(A) is None


def test_a_group_that_is_not_supported_stays_so_when_the_engine_is_cleared(index: MemoryIndex) -> None:
    index.store(A, full(1))
    index.store(A, stored(1, group=1, kind="cross_attention"))
    assert index.engine_cleared(A)
    assert index.inexact_reason(A) == InexactReason.UNSUPPORTED_GROUP


def test_a_tier_that_is_named_is_cleared_alone(index: MemoryIndex) -> None:
    index.store(A, full(1, 2))
    index.store(A, offloaded(1, 2))
    index.clear_tier(A, Tier.CPU)
    assert only(index, 1, 2).tokens_by_tier == {Tier.GPU: 2 * SIZE}
    evict(index, 1)
    assert matches(index, 1, 2) == {}
    assert index.disagreements() == []


def test_an_engine_with_eagle_reuses_one_block_less(index: MemoryIndex) -> None:
    index.drop_last_block(A)
    index.store(A, full(1, 2, 3))
    assert matches(index, 1, 2, 3) == {A: 2}
    assert matches(index, 1, 9) == {}
