from __future__ import annotations

import random
from array import array

import pytest

from service.index.base import Prompt
from service.index.key_cache import KeyCache
from service.index.keys import block_keys, prompt_keys, root_key


def tokens_of(random_: random.Random, count: int) -> array[int]:
    return array("I", (random_.randrange(50_000) for _ in range(count)))


@pytest.mark.parametrize("block_size", [1, 16, 48, 256, 1024, 2000])
def test_keys_are_those_that_are_computed_anew(block_size: int) -> None:
    cache, random_ = KeyCache(10_000_000), random.Random(block_size)
    tokens = array("I")
    for _ in range(30):
        tokens += tokens_of(random_, random_.randrange(500))
        for parent in (0, 1, (1 << 60) - 1):
            assert cache.block_keys(parent, tokens, block_size) == list(block_keys(parent, tokens, block_size))
        if random_.random() < 0.3:
            del tokens[random_.randrange(len(tokens)) :]
    assert cache.size_bytes > 0


def test_the_cache_keeps_to_its_bound_and_stays_right() -> None:
    cache, random_ = KeyCache(30_000), random.Random(1)
    prompts = [tokens_of(random_, 5000) for _ in range(5)]
    for _ in range(3):
        for tokens in prompts:
            assert cache.block_keys(7, tokens, 16) == list(block_keys(7, tokens, 16))
            assert 0 < cache.size_bytes <= cache.capacity


def test_a_cache_without_room_keeps_nothing() -> None:
    cache, tokens = KeyCache(0), tokens_of(random.Random(1), 5000)
    assert list(cache.block_keys(7, tokens, 16)) == list(block_keys(7, tokens, 16))
    assert cache.size_bytes == 0


@pytest.mark.parametrize("salt", [None, "salt"])
def test_a_prompt_has_the_same_keys_whoever_remembers_them(salt: str | None) -> None:
    tokens = tokens_of(random.Random(2), 4000)
    prompt, remembered = Prompt("model", tokens, cache_salt=salt), KeyCache(1_000_000).block_keys
    for lookahead in (0, 1):
        for _ in range(2):
            assert list(prompt_keys(prompt, 16, lookahead, remembered)) == list(prompt_keys(prompt, 16, lookahead))
    assert root_key("model", None, 16) != root_key("model", None, 32)
