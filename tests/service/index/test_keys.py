from __future__ import annotations

import tracemalloc
from array import array

import pytest
import xxhash

from service.index.base import Medium, Prompt
from service.index.keys import block_extra, block_keys, lookahead_extra, prompt_keys, root_key

TOKENS = array("I", range(100, 112))


def test_a_key_is_the_hash_of_a_block_s_tokens_seeded_with_the_key_before() -> None:
    first = xxhash.xxh64_intdigest(TOKENS[:4].tobytes(), 5) & (2**60 - 1)
    second = xxhash.xxh64_intdigest(TOKENS[4:8].tobytes(), first) & (2**60 - 1)
    assert list(block_keys(5, TOKENS[:11], 4)) == [first, second]


def test_a_chain_may_be_cut_anywhere() -> None:
    whole = block_keys(1, TOKENS, 4)
    assert block_keys(whole[0], TOKENS[4:], 4) == whole[1:]


def test_an_extra_changes_its_block_and_all_that_follow() -> None:
    plain = block_keys(1, TOKENS, 4)
    salted = block_keys(1, TOKENS, 4, [None, block_extra(["s"])])
    assert salted[0] == plain[0]
    assert not set(salted[1:]) & set(plain)
    assert block_keys(1, TOKENS, 4, [None, None, None]) == plain


@pytest.mark.parametrize("other", [("n", None, 4), ("m", "lora", 4), ("m", None, 8), ("m", "", 4)])
def test_roots_of_other_models_loras_and_block_sizes_differ(other: tuple[str, str | None, int]) -> None:
    assert root_key("m", None, 4) == root_key("m", None, 4) != root_key(*other)


def test_a_prompt_has_the_keys_of_the_events_that_stored_it() -> None:
    root = root_key("m", "lora", 4)
    prompt = Prompt("m", TOKENS, lora_name="lora", cache_salt="s")
    assert prompt_keys(prompt, 4) == block_keys(root, TOKENS, 4, [block_extra(["s"])])


def test_a_block_names_the_media_that_it_overlaps_with_their_offsets_from_its_start() -> None:
    root = root_key("m", None, 4)
    tokens = array("I", range(20))
    prompt = Prompt("m", tokens, cache_salt="s", media=(Medium("a", 2, 4), Medium("b", 6, 7)))
    extras = [
        block_extra([["a", 2], "s"]),
        block_extra([["a", -2], ["b", 2]]),
        block_extra([["b", -2]]),
        block_extra([["b", -6]]),
    ]
    assert prompt_keys(prompt, 4) == block_keys(root, tokens, 4, extras)
    ends = (4, 8, 12, 16)
    looked = [lookahead_extra(extra, tokens[end : end + 1]) for extra, end in zip(extras, ends, strict=True)]
    assert prompt_keys(prompt, 4, lookahead=1) == block_keys(root, tokens[:16], 4, looked)


def test_a_prompt_that_is_looked_ahead_of_has_no_key_for_a_last_block_without_next_tokens() -> None:
    root = root_key("m", None, 4)
    extras = [lookahead_extra(None, TOKENS[end : end + 2]) for end in (4, 8)]
    assert prompt_keys(Prompt("m", TOKENS), 4, lookahead=2) == block_keys(root, TOKENS[:8], 4, extras)
    assert not prompt_keys(Prompt("m", TOKENS[:5]), 4, lookahead=2)


def test_text_and_bytes_are_different_extras() -> None:
    assert block_extra(["a"]) != block_extra([b"a"]) != block_extra([["a"]])
    assert block_extra([]) is None


def test_long_names_of_loras_do_not_stay_in_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(20):
            root_key("m", f"{number}" + "x" * 1_000_000, 16)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
