from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence

from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary
from service.prompts.tokens.word_cache import WordCache
from tests.conftest import BUILTIN


class Asked:
    """Spells words, and remembers which."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, words: Sequence[str]) -> list[bytes]:
        self.words += words
        return [word.encode() for word in words]


def test_only_words_that_miss_are_tokenized_and_each_once() -> None:
    cache, asked = WordCache(10_000), Asked()
    assert cache.tokens(1, ["a", " b", " b", " a"], asked) == b"a b b a"
    assert cache.tokens(1, [" a", " b", " c"], asked) == b" a b c"
    assert asked.words == ["a", " b", " a", " c"]


def test_words_of_one_tokenizer_are_not_those_of_another() -> None:
    cache = WordCache(10_000)
    cache.tokens(1, ["a"], lambda words: [b"1" for _ in words])
    assert cache.tokens(2, ["a"], lambda words: [b"2" for _ in words]) == b"2"
    assert cache.tokens(1, ["a"], Asked()) == b"1"


def test_a_full_cache_drops_the_words_that_it_stored_first_and_the_ones_in_use_come_back() -> None:
    cache, asked = WordCache(5_000), Asked()
    for number in range(1000):
        assert cache.tokens(1, [" often", f" {number}"], asked) == f" often {number}".encode()
        assert cache.size_bytes <= 5_000
    assert asked.words.count(" often") < 100
    cache.tokens(1, [" 0", " 999"], asked)
    assert asked.words.count(" 0") == 2
    assert asked.words.count(" 999") == 1


def test_the_words_of_all_tokenizers_share_the_room() -> None:
    cache, asked = WordCache(5_000), Asked()
    for number in range(1000):
        cache.tokens(number % 3, [f" {number}"], asked)
        assert cache.size_bytes <= 5_000
    for number in range(999, 989, -1):
        cache.tokens(number % 3, [f" {number}"], asked)
    assert len(asked.words) == 1000


def test_a_cache_without_room_keeps_nothing() -> None:
    cache, asked = WordCache(0), Asked()
    for _ in range(2):
        assert cache.tokens(1, ["a", " b"], asked) == b"a b"
    assert asked.words == ["a", " b", "a", " b"]
    assert cache.size_bytes == 0


def test_long_words_are_not_kept() -> None:
    cache, asked = WordCache(100_000), Asked()
    for _ in range(2):
        assert cache.tokens(1, ["x" * 100], asked) == b"x" * 100
    assert len(asked.words) == 2


def test_a_full_cache_takes_the_memory_that_it_says() -> None:
    capacity = 1 << 19
    cache = TokenCache(capacity)
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), cache)
    random_ = random.Random(1)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(75):
            words = (f"{random_.getrandbits(30):x}" for _ in range(400))
            tokenizer.encode("<|role|>".join(" ".join(words) for _ in range(3)), add_special_tokens=False)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.size_bytes + cache.words.size_bytes > 0.8 * capacity
    assert after - before < 1.1 * capacity
