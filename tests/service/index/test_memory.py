from __future__ import annotations

import time
from array import array

import pytest

from service.index.base import NAMELESS_LORA, Prompt, Rank, Removed, Stored, Tier
from service.index.inexact_reasons import InexactReason
from service.index.keys import block_extra, lookahead_extra
from service.index.memory import MemoryIndex
from tests.service.index.blocks import SIZE, A, B, matches, only, stored, tokens


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex(max_blocks=10_000)


def test_a_match_is_the_longest_run_of_blocks_from_the_first(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2, 3))
    index.store(B, stored(1, 2))
    assert matches(index, 1, 2, 3, 4) == {A: 3, B: 2}
    assert matches(index, 1, 9, 3) == {A: 1, B: 1}
    assert matches(index, 2, 3) == {}


def test_a_part_of_a_block_does_not_count(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2))
    assert index.match(Prompt("m", tokens(1, 2)[:-1]))[0].tokens == SIZE
    assert index.match(Prompt("m", tokens(1)[:-1])) == []
    assert index.match(Prompt("m", array("I"))) == []


def test_a_chain_goes_on_from_a_block_that_was_stored_before(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2))
    index.store(A, stored(3, parent=2))
    index.store(A, stored(4, parent=1))
    assert matches(index, 1, 2, 3) == {A: 3}
    assert matches(index, 1, 4) == {A: 2}


def test_a_block_whose_parent_is_unknown_is_left_out_and_told(index: MemoryIndex) -> None:
    assert index.store(A, stored(2, 3, parent=1)) == 2
    assert matches(index, 2, 3) == {}
    assert index.statistics.unknown_parents == 2
    assert index.inexact_reason(A) == InexactReason.UNKNOWN_PARENT
    index.clear(A)
    assert index.inexact_reason(A) is None


def test_a_hash_is_known_only_within_its_rank(index: MemoryIndex) -> None:
    index.store(A, stored(1))
    assert index.store(B, stored(2, parent=1)) == 1
    assert index.remove(B, Removed([1])) == 1
    assert matches(index, 1) == {A: 1}


def test_a_removed_block_ends_the_match(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2, 3))
    assert index.remove(A, Removed([2])) == 0
    assert matches(index, 1, 2, 3) == {A: 1}
    index.store(A, stored(2, parent=1))
    assert matches(index, 1, 2, 3) == {A: 3}


def test_a_block_is_gone_when_it_was_removed_as_often_as_it_was_stored(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2))
    index.store(A, stored(2, parent=1))
    index.store(A, stored(2, parent=1))
    for held in (2, 2, 1):
        assert index.remove(A, Removed([2])) == 0
        assert matches(index, 1, 2) == {A: held}
    assert index.remove(A, Removed([2])) == 1
    assert index.blocks == 1


def test_removing_what_is_unknown_is_harmless(index: MemoryIndex) -> None:
    assert index.remove(A, Removed([1, 2])) == 2
    index.store(A, stored(1))
    assert index.remove(A, Removed([7, 1, 7])) == 2
    assert matches(index, 1) == {}
    assert index.statistics.unknown_blocks == 4


def test_a_block_is_on_every_tier_where_it_was_stored(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2, 3))
    index.store(A, stored(2, 3, parent=1, tier=Tier.CPU))
    assert only(index, 1, 2, 3).tokens_by_tier == {Tier.GPU: 3 * SIZE}
    index.remove(A, Removed([2]))
    index.remove(A, Removed([3]))
    assert only(index, 1, 2, 3).tokens_by_tier == {Tier.GPU: SIZE, Tier.CPU: 2 * SIZE}
    index.store(A, stored(3, parent=2, tier=Tier.STORAGE))
    index.remove(A, Removed([3], Tier.CPU))
    assert only(index, 1, 2, 3).tokens_by_tier == {Tier.GPU: SIZE, Tier.CPU: SIZE, Tier.STORAGE: SIZE}
    assert index.disagreements() == []


def test_an_offloaded_block_without_tokens_is_known_by_its_hash(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2))
    offloaded = Stored([1, 2, 9], None, array("I"), 0, Tier.CPU, group=0)
    assert index.store(A, offloaded) == 1
    index.remove(A, Removed([2]))
    assert only(index, 1, 2).tokens_by_tier == {Tier.GPU: SIZE, Tier.CPU: SIZE}
    index.remove(A, Removed([2], Tier.CPU, group=0))
    assert matches(index, 1, 2) == {A: 1}


@pytest.mark.parametrize(
    ("hashes", "reason"),
    [
        ([2], None),
        ([9], InexactReason.UNKNOWN_OFFLOADED),
    ],
)
def test_offloaded_blocks_that_cannot_be_told_make_the_rank_inexact(
    index: MemoryIndex, hashes: list[int], reason: InexactReason | None
) -> None:
    index.store(A, stored(1, 2))
    index.store(A, Stored(hashes, None, array("I"), 0, Tier.CPU))
    assert index.inexact_reason(A) == reason


def test_clearing_empties_every_tier_at_once(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2))
    index.store(A, stored(1, 2, tier=Tier.CPU))
    index.store(B, stored(1))
    index.clear(A)
    assert matches(index, 1, 2) == {B: 1}
    assert index.blocks == 1
    assert index.store(A, stored(3, parent=2)) == 1
    index.store(A, stored(1, 2))
    while index.sweep(1):
        assert matches(index, 1, 2) == {A: 2, B: 1}
    assert index.disagreements() == []


def test_a_hidden_rank_is_in_no_match_and_comes_back_with_its_blocks(index: MemoryIndex) -> None:
    index.store(A, stored(1))
    index.hide(A)
    index.hide(A)
    index.store(A, stored(2, parent=1))
    assert matches(index, 1, 2) == {}
    index.unhide(A)
    assert matches(index, 1, 2) == {A: 2}


def test_a_forgotten_rank_is_in_no_list(index: MemoryIndex) -> None:
    index.store(A, stored(1))
    index.store(B, stored(1))
    index.forget(A)
    assert [blocks.rank for blocks in index.ranks()] == [B]
    assert matches(index, 1) == {B: 1}
    index.clear(A)
    index.hide(A)
    assert index.inexact_reason(A) is None


def test_models_and_loras_never_match_one_another(index: MemoryIndex) -> None:
    other = A._replace(model="n")
    index.store(A, stored(1))
    index.store(other, stored(1, 2))
    index.store(A, stored(11, 12, tokens=tokens(1, 2), lora_name="sql"))
    assert matches(index, 1, 2) == {A: 1}
    assert matches(index, 1, 2, model="n") == {other: 2}
    assert matches(index, 1, 2, lora_name="sql") == {A: 2}
    assert matches(index, 1, 2, lora_name="chat") == {}
    assert index.lora_model("sql") == "m"
    assert index.lora_model("chat") is None


def test_a_salt_matches_itself_alone_and_children_inherit_it(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2, extras=[block_extra(["tenant"]), None]))
    index.store(A, stored(3, parent=2))
    assert matches(index, 1, 2, 3, cache_salt="tenant") == {A: 3}
    assert matches(index, 1, 2, 3) == {}
    assert matches(index, 1, 2, 3, cache_salt="other") == {}
    assert matches(index, 1, 2, 3, cache_salt="") == {}
    index.store(B, stored(1))
    assert matches(index, 1, cache_salt="tenant") == {A: 1}


def test_a_block_that_holds_an_image_matches_no_text(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2, extras=[None, block_extra([["image", 3]])]))
    assert matches(index, 1, 2) == {A: 1}


def test_offloaded_blocks_that_may_be_salted_are_left_out(index: MemoryIndex) -> None:
    index.store(A, stored(1, extras=[block_extra(["tenant"])]))
    index.remove(A, Removed([1]))
    index.store(A, stored(1, tier=Tier.CPU))
    assert matches(index, 1) == {}
    assert index.inexact_reason(A) == InexactReason.UNNAMED_SALT


def test_blocks_of_the_same_tokens_under_several_hashes_are_counted_and_told(index: MemoryIndex) -> None:
    index.store(A, stored(1, tokens=tokens(1)))
    assert index.inexact_reason(A) is None
    index.store(A, stored(2, tokens=tokens(1)))
    assert index.inexact_reason(A) == InexactReason.SAME_TOKENS
    index.remove(A, Removed([1]))
    assert matches(index, 1) == {A: 1}
    index.remove(A, Removed([2]))
    assert matches(index, 1) == {}
    assert index.disagreements() == []


def test_a_block_that_reaches_into_the_next_tokens_matches_only_with_them(index: MemoryIndex) -> None:
    past = [array("I", [2 * SIZE]), array("I", [99])]
    index.store(A, stored(1, 2, extras=[lookahead_extra(None, after) for after in past], lookahead=1))
    assert matches(index, 1, 2) == {A: 1}
    assert index.match(Prompt("m", tokens(1, 2) + array("I", [99])))[0].tokens == 2 * SIZE
    assert matches(index, 1) == {}


def test_ranks_with_blocks_of_other_sizes_are_found_by_one_lookup(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2, 3))
    index.store(B, Stored([1], None, tokens(1, 2), 2 * SIZE))
    sizes = {match.rank: (match.block_size, match.tokens) for match in index.match(Prompt("m", tokens(1, 2, 3)))}
    assert sizes == {A: (SIZE, 3 * SIZE), B: (2 * SIZE, 2 * SIZE)}


def test_a_lookup_may_be_restricted_to_pods(index: MemoryIndex) -> None:
    for rank in (A, A._replace(number=1), B):
        index.store(rank, stored(1))
    assert matches(index, 1, pods=["a"]) == {A: 1, A._replace(number=1): 1}
    assert matches(index, 1, pods=["nobody"]) == {}
    assert matches(index, 1, pods=[]) == {}


def test_the_oldest_blocks_go_first_when_there_are_too_many() -> None:
    index = MemoryIndex(max_blocks=4)
    index.store(A, stored(1, 2))
    index.store(B, stored(1))
    index.store(A, stored(3, parent=2))
    index.store(B, stored(2, 3, parent=1))
    assert index.blocks == 4
    assert [blocks.blocks_by_tier[Tier.GPU] for blocks in index.ranks()] == [1, 3]
    assert matches(index, 1, 2, 3) == {B: 3}
    assert index.statistics.displaced == 2
    assert index.inexact_reason(A) == InexactReason.EVICTED_HERE
    assert index.inexact_reason(B) is None
    assert index.disagreements() == []


def test_blocks_that_engines_removed_do_not_make_the_others_older() -> None:
    index = MemoryIndex(max_blocks=4)
    index.store(A, stored(1, 2))
    index.store(B, stored(5, 6))
    index.remove(A, Removed([1]))
    index.remove(A, Removed([2]))
    index.store(A, stored(7, 8))
    index.store(A, stored(9))
    assert matches(index, 5, 6) == {}
    assert matches(index, 7, 8) == {A: 2}


def test_the_bound_holds_under_turnover(index: MemoryIndex) -> None:
    index = MemoryIndex(max_blocks=100)
    for number in range(2000):
        index.store(A if number % 3 else B, stored(number))
        assert index.blocks <= 100
    assert index.disagreements() == []
    assert all(matches(index, number) for number in range(1900, 2000))


def test_a_rank_says_what_it_holds(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2))
    index.store(A, stored(1, tier=Tier.CPU))
    (held,) = index.ranks()
    assert (held.rank, held.block_sizes, held.unsupported_groups, held.inexact_reason) == (A, [SIZE], [], None)
    assert held.blocks_by_tier == {Tier.GPU: 2, Tier.CPU: 1, Tier.STORAGE: 0}


def test_the_counters_say_what_happened(index: MemoryIndex) -> None:
    index.store(A, stored(1, 2))
    index.store(A, stored(2, parent=1))
    index.remove(A, Removed([2]))
    index.remove(A, Removed([2]))
    matches(index, 1)
    matches(index, 9)
    index.clear(A)
    counted = index.statistics
    assert (counted.admissions, counted.evictions, counted.cleared) == (2, 2, 1)
    assert (counted.lookups, counted.lookup_hits, sum(counted.lookup_seconds.counts)) == (2, 1, 2)


def test_many_blocks_are_cleared_in_short_slices() -> None:
    index = MemoryIndex(max_blocks=1_000_000)
    chain = array("I", range(1000 * SIZE))
    for number in range(200):
        chain[0] = number
        index.store(A, Stored(range(number * 1000, (number + 1) * 1000), None, chain, SIZE))
    assert index.blocks == 200_000
    index.clear(A)
    assert index.blocks == 0
    slices = 1
    while index.sweep(1024):
        slices += 1
    assert slices >= 200_000 // 1024


def test_a_lookup_costs_about_the_same_whatever_the_number_of_pods() -> None:
    prompt = Prompt("m", array("I", range(4096)))

    def filled(pods: int) -> MemoryIndex:
        index = MemoryIndex(max_blocks=1_000_000)
        for number in range(pods):
            held = prompt.tokens if number < 4 else array("I", [7] * 16)
            index.store(Rank(str(number), "m"), Stored(range(len(held) // 16), None, held, 16))
        return index

    def seconds(index: MemoryIndex) -> float:
        started = time.thread_time()
        assert len(index.match(prompt)) == 4
        return time.thread_time() - started

    few, many = filled(10), filled(1000)
    # In turns, so that a machine that slows down slows down both.
    rounds = [(seconds(few), seconds(many)) for _ in range(50)]
    assert min(took for _, took in rounds) < 5 * min(took for took, _ in rounds)


def test_the_name_of_a_served_model_is_no_lora(index: MemoryIndex) -> None:
    index.store(A, stored(1, lora_name="m"))
    assert index.lora_model("m") is None
    assert index.loras() == {}


def test_a_lora_s_name_goes_with_the_last_rank_that_announced_it(index: MemoryIndex) -> None:
    index.store(A, stored(1, lora_name="sql"))
    index.store(B, stored(1, lora_name="sql"))
    index.forget(A)
    assert index.loras() == {"sql": "m"}
    index.forget(B)
    assert index.lora_model("sql") is None


def test_a_numbered_lora_is_in_no_list(index: MemoryIndex) -> None:
    index.store(A, stored(1, lora_name=f"{NAMELESS_LORA}7"))
    assert index.loras() == {}


def test_made_up_groups_sizes_and_names_are_limited(index: MemoryIndex) -> None:
    for number in range(300):
        index.store(A, stored(number, group=number, kind="full_attention", lora_name=f"{number}" * 600))
        index.store(B, stored(number, group=number, kind="unheard of"))
    (a, b) = index.ranks()
    assert (a.inexact_reason, b.inexact_reason) == (InexactReason.UNSUPPORTED_GROUP, InexactReason.UNSUPPORTED_GROUP)
    assert index.blocks == 64
    assert all(len(name) <= 1024 for name in index.loras())


def test_a_prompt_that_skips_the_cache_matches_nobody(index: MemoryIndex) -> None:
    index.store(A, stored(1))
    assert matches(index, 1, skips_cache=True) == {}
