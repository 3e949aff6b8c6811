"""Models with several KV-cache groups: what suits all of them is what an engine reuses."""

from __future__ import annotations

from typing import Any

import pytest

from service.index.base import Removed, Reuse, Stored
from service.index.inexact_reasons import InexactReason
from service.index.memory import MemoryIndex
from tests.service.index.blocks import SIZE, A, B, matches, stored, tokens

WINDOW = 2 * SIZE + 1
"""A window of two blocks, and the token that is being computed."""


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex(max_blocks=10_000)


def full(*blocks: int, **changes: Any) -> Stored:
    return stored(*blocks, group=0, kind="full_attention", **changes)


def windowed(*blocks: int, **changes: Any) -> Stored:
    return stored(*blocks, **{"group": 1, "kind": "sliding_window", "window": WINDOW, **changes})


def test_a_prefix_counts_as_far_as_the_window_before_its_end_is_held(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4, 5))
    index.store(A, windowed(1, 2, 3, 4, 5))
    for gone in (1, 2):
        index.remove(A, Removed([gone], group=1))
    assert matches(index, 1, 2, 3, 4, 5) == {A: 5}
    assert matches(index, 1, 2, 3, 4) == {A: 4}
    assert matches(index, 1, 2, 3) == {}
    index.remove(A, Removed([5], group=1))
    assert matches(index, 1, 2, 3, 4, 5) == {A: 4}


def test_a_prefix_shorter_than_its_window_needs_all_of_it(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3))
    index.store(A, windowed(1))
    assert matches(index, 1, 2, 3) == {A: 1}


def test_full_attention_ends_the_prefix_whatever_a_window_holds(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4))
    index.store(A, windowed(1, 2, 3, 4))
    index.remove(A, Removed([3], group=0))
    assert matches(index, 1, 2, 3, 4) == {A: 2}


def test_every_window_has_its_say(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4))
    index.store(A, windowed(1, 2, 3, 4))
    index.store(A, windowed(1, 2, 3, 4, group=2, window=SIZE + 1))
    index.remove(A, Removed([4], group=2))
    assert matches(index, 1, 2, 3, 4) == {A: 3}
    index.remove(A, Removed([2], group=1))
    assert matches(index, 1, 2, 3, 4) == {A: 1}


def test_a_window_without_full_attention_is_enough(index: MemoryIndex) -> None:
    index.store(A, windowed(1, 2, 3, 4, group=0))
    index.remove(A, Removed([1], group=0))
    assert matches(index, 1, 2, 3, 4) == {A: 4}
    assert matches(index, 1, 2) == {}
    index.hide(A)
    assert matches(index, 1, 2, 3, 4) == {}
    index.unhide(A)
    index.clear(A)
    assert matches(index, 1, 2, 3, 4) == {}


def test_a_state_is_reused_only_at_its_own_end(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4))
    index.store(A, Stored([3], None, tokens(1, 2, 3), SIZE, group=1, kind="mamba"))
    assert matches(index, 1, 2, 3, 4) == {A: 3}
    assert matches(index, 1, 2) == {}
    index.store(A, Stored([4], 3, tokens(4), SIZE, group=1, kind="mamba"))
    assert matches(index, 1, 2, 3, 4) == {A: 4}


def test_a_group_s_blocks_may_have_a_size_of_their_own(index: MemoryIndex) -> None:
    index.store(A, Stored([2, 4], None, tokens(1, 2, 3, 4), 2 * SIZE, group=0, kind="full_attention"))
    index.store(A, windowed(1, 2, 3))
    assert matches(index, 1, 2, 3, 4) == {A: 2}
    index.store(A, windowed(4, parent=3))
    assert matches(index, 1, 2, 3, 4) == {A: 4}


def test_the_blocks_that_a_window_names_are_known_by_the_hashes_of_other_groups(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4, 5))
    index.store(A, Stored([2, 3], None, tokens(1, 2, 3, 4, 5), SIZE, group=1, kind="sliding_window", window=WINDOW))
    assert matches(index, 1, 2, 3, 4, 5) == {A: 3}


def test_a_window_whose_blocks_cannot_be_told_does_not_count(index: MemoryIndex) -> None:
    index.store(A, Stored([8], None, tokens(*range(1, 9)), 8 * SIZE, group=0, kind="full_attention", hash_unit=SIZE))
    index.store(A, windowed(*range(1, 9), hashes=[11, 12, 13, 14, 15]))
    assert matches(index, *range(1, 9)) == {A: 8}
    (held,) = index.ranks()
    assert held.unsupported_groups == ["a window whose blocks are not all known"]
    assert held.inexact_reason == InexactReason.WINDOW_BLOCKS
    index.store(A, windowed(9, parent=8))
    assert index.disagreements() == []


def test_a_window_keeps_the_last_blocks_or_those_before_the_last(index: MemoryIndex) -> None:
    index.store(A, windowed(1, 2, 3, 4, hashes=[3, 4], group=0))
    assert matches(index, 1, 2, 3, 4) == {A: 4}
    assert index.inexact_reason(A) == InexactReason.WINDOW_BLOCKS
    index.store(A, windowed(5, parent=4, hashes=[], group=0))
    assert index.inexact_reason(A) is None


def test_a_later_prompt_tells_that_a_window_keeps_the_blocks_before_the_last(index: MemoryIndex) -> None:
    index.store(A, windowed(1, 2, 3, 4, hashes=[2, 3], group=0))
    index.store(A, windowed(4, parent=3, group=0))
    assert index.inexact_reason(A) is None
    assert matches(index, 1, 2, 3) == {A: 3}
    assert matches(index, 1, 2, 3, 4) == {A: 4}
    assert index.disagreements() == []


def test_blocks_after_a_window_of_unknown_place_are_in_doubt_until_it_is_known(index: MemoryIndex) -> None:
    index.store(A, windowed(1, 2, 3, 4, hashes=[2, 3], group=0))
    index.store(A, windowed(9, parent=3, group=0))
    assert index.inexact_reason(A) == InexactReason.WINDOW_BLOCKS
    index.remove(A, Removed([2, 3], group=0))
    assert index.inexact_reason(A) == InexactReason.WINDOW_BLOCKS
    index.remove(A, Removed([9], group=0))
    assert index.inexact_reason(A) is None


def test_a_window_alone_may_leave_out_the_block_that_names_a_salt(index: MemoryIndex) -> None:
    index.store(A, windowed(7, 8, group=0, extras=[b"salt", None]))
    assert index.inexact_reason(A) is None
    index.store(A, windowed(1, 2, 3, 4, hashes=[3, 4], group=0))
    assert index.inexact_reason(A) == InexactReason.UNNAMED_SALT


def test_another_prompt_that_shares_blocks_tells_where_they_are(index: MemoryIndex) -> None:
    index.store(A, windowed(1, 2, 3, 4, hashes=[2, 3], group=0))
    index.store(A, windowed(1, 2, 3, 9, hashes=[3, 9], group=0))
    assert matches(index, 1, 2, 3) == {A: 3}
    assert matches(index, 1, 2, 3, 9) == {A: 4}


@pytest.mark.parametrize("kind", ["chunked_local_attention", "cross_attention", "unknown", None])
def test_a_group_of_another_kind_is_told_and_full_attention_counts_alone(index: MemoryIndex, kind: str | None) -> None:
    index.store(A, full(1, 2))
    index.store(A, stored(1, group=1, kind=kind))
    assert matches(index, 1, 2) == {A: 2}
    (held,) = index.ranks()
    assert held.unsupported_groups == [kind or "group 1"]


def test_a_removal_is_of_its_group(index: MemoryIndex) -> None:
    index.store(A, full(1, 2))
    index.store(A, windowed(1, 2))
    index.remove(A, Removed([2], group=0))
    assert matches(index, 1, 2) == {A: 1}
    assert index.remove(A, Removed([2], group=0)) == 1
    assert index.remove(A, Removed([1])) == 0


def test_ordinary_ranks_are_not_kept_from_their_match_by_hybrid_ones(index: MemoryIndex) -> None:
    index.store(A, full(1, 2))
    index.store(A, windowed(1))
    index.store(B, full(1, 2))
    assert matches(index, 1, 2) == {A: 1, B: 2}


def test_a_part_of_a_block_at_a_prompt_s_end_is_no_block(index: MemoryIndex) -> None:
    index.store(A, Stored([4], None, tokens(1, 2, 3, 4), 4 * SIZE, group=0, kind="full_attention"))
    index.store(A, full(1))
    assert matches(index, 1, 2, 3, 4) == {A: 4}
    assert matches(index, 1, 2) == {}
    assert index.inexact_reason(A) is None


def test_a_report_of_reuse_is_no_copy(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3))
    index.store(A, full(1, 2, reuse=Reuse.FOLLOWED_BY_STORE))
    index.remove(A, Removed([2], group=0))
    assert matches(index, 1, 2) == {A: 1}
    assert index.inexact_reason(A) == InexactReason.REUSE_REPORTS


def test_nobody_is_taken_to_report_before_it_was_seen(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3))
    index.store(A, full(1, 2, reuse=Reuse.POSSIBLE))
    index.remove(A, Removed([2], group=0))
    assert matches(index, 1, 2) == {A: 2}
    assert index.inexact_reason(A) is None


def test_who_was_seen_to_report_is_taken_to_have_reported_before(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3))
    index.store(A, full(1, 2, reuse=Reuse.POSSIBLE))
    index.store(A, full(1, 2, 3, reuse=Reuse.FOLLOWED_BY_STORE))
    index.remove(A, Removed([2], group=0))
    assert matches(index, 1, 2) == {A: 1}
    assert index.inexact_reason(A) == InexactReason.REUSE_REPORTS


def test_a_store_of_what_is_not_all_held_is_no_report(index: MemoryIndex) -> None:
    index.store(A, full(1))
    index.store(A, full(1, 2, reuse=Reuse.POSSIBLE))
    index.remove(A, Removed([1], group=0))
    assert matches(index, 1, 2) == {A: 2}


def test_a_single_block_that_is_stored_again_is_a_copy(index: MemoryIndex) -> None:
    index.store(A, full(1))
    index.store(A, full(1, reuse=Reuse.POSSIBLE))
    index.remove(A, Removed([1], group=0))
    assert matches(index, 1) == {A: 1}
    assert index.inexact_reason(A) is None


def test_a_single_block_that_another_prompt_goes_on_from_is_a_copy_until_a_report_was_seen(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3))
    index.store(A, full(1, reuse=Reuse.FOLLOWED_BY_STORE))
    index.remove(A, Removed([1], group=0))
    assert matches(index, 1, 2) == {A: 2}
    assert index.inexact_reason(A) == InexactReason.REUSE_REPORTS
    index.store(A, full(1, reuse=Reuse.FOLLOWED_BY_STORE))
    index.store(A, full(1, 2, reuse=Reuse.FOLLOWED_BY_STORE))
    index.remove(A, Removed([1], group=0))
    assert matches(index, 1, 2) == {}


def test_what_had_to_be_computed_for_want_of_its_window_is_a_copy(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3))
    index.store(A, windowed(1, 2, 3))
    index.remove(A, Removed([3], group=1))
    index.remove(A, Removed([2], group=1))
    index.store(A, full(1, 2, 3, reuse=Reuse.POSSIBLE))
    index.store(A, windowed(1, 2, 3, reuse=Reuse.SAME_AS_PREVIOUS_GROUP))
    index.remove(A, Removed([3], group=0))
    assert matches(index, 1, 2, 3) == {A: 3}


def test_a_report_names_blocks_that_a_window_does_not_hold(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3, 4))
    index.store(A, windowed(1, 2, 3, 4))
    index.remove(A, Removed([1], group=1))
    index.store(A, full(1, 2, 3, 4, reuse=Reuse.FOLLOWED_BY_STORE))
    index.store(A, windowed(1, 2, 3, 4, reuse=Reuse.SAME_AS_PREVIOUS_GROUP))
    assert matches(index, 1) == {}


def test_an_event_that_names_no_block_of_a_single_state_group_changes_nothing(index: MemoryIndex) -> None:
    index.store(A, full(1, 2, 3))
    index.store(A, windowed(1, 2, 3, hashes=[3], kind="mamba", window=None))
    skipped = Stored([], 3, tokens(4, 5), SIZE, group=1, kind="mamba")
    assert index.store(A, skipped) == 0
    assert matches(index, 1, 2, 3) == {A: 3}
    assert index.inexact_reason(A) is None


def test_a_rank_with_groups_that_are_not_understood_is_inexact(index: MemoryIndex) -> None:
    index.store(A, full(1, 2))
    assert index.inexact_reason(A) is None
    index.store(A, windowed(1, 2, kind="chunked_local_attention"))
    assert index.inexact_reason(A) == InexactReason.UNSUPPORTED_GROUP
    index.clear(A)
    assert index.inexact_reason(A) is None


def test_a_group_that_was_not_heard_of_yet_makes_a_rank_inexact_until_it_is() -> None:
    index = MemoryIndex(1000)
    window: dict[str, Any] = {"kind": "sliding_window", "window": 2 * SIZE, "group": 1}
    index.store(A, stored(1, **window))
    assert index.inexact_reason(A) == InexactReason.UNHEARD_GROUP, "the first one may have larger blocks"
    index.store(A, stored(1, 2, kind="full_attention", group=0))
    assert index.inexact_reason(A) is None
    assert index.engine_cleared(A)
    index.store(A, stored(3, **window))
    assert index.inexact_reason(A) == InexactReason.UNHEARD_GROUP


def test_with_states_a_part_of_the_first_block_is_reused(index: MemoryIndex) -> None:
    for blocks in ((1, 2, 3, 4), (5, 6)):
        size = len(blocks) * SIZE  # the second prompt ends within its first block
        for group, kind in enumerate(("full_attention", "mamba")):
            last = Stored(blocks[-1:], None, tokens(*blocks), size, group=group, kind=kind, hash_unit=SIZE)
            index.store(A, last)
    assert matches(index, 5, 6, 7) == {A: 2}
    assert matches(index, 5, 6, 7, 8, 9) == {A: 2}
    assert matches(index, 5, 7) == {}
    assert matches(index, 1, 2, 3, 4, 5) == {A: 4}
