from __future__ import annotations

from pathlib import Path

import pytest

from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.token_cache import CachedChunk, ChunkSizes, TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary
from tests.conftest import BUILTIN


def conversation(number: int) -> str:
    turns = (f"<|role|>user<|say|>Question {number} of {turn}: what is there to say?<|end|>\n" for turn in range(300))
    return "<|begin|>" + "".join(turns)


def last_whole_chunk(characters: int) -> int:
    """Where the last whole chunk of a text of that many characters ends."""
    end = 0
    while ChunkSizes().end(end) <= characters:
        end = ChunkSizes().end(end)
    return end


def test_a_stored_text_is_a_hit_after_its_parent_only() -> None:
    cache, parent = TokenCache(10_000), CachedChunk()
    cache.put(parent, "text", b"1234")
    assert cache.get(parent, "text") == b"1234"
    assert cache.get(CachedChunk(), "text") is None


def test_the_least_recently_used_text_is_evicted() -> None:
    cache, parent = TokenCache(5_000), CachedChunk()
    for number in range(100):
        cache.put(parent, str(number), b"")
        cache.get(parent, "0")
    assert cache.get(parent, "0") is not None
    assert cache.get(parent, "1") is None
    assert cache.get(parent, "99") is not None
    assert 0 < len(cache) < 20
    assert cache.size_bytes <= cache.capacity


@pytest.mark.parametrize("characters", [0, 10, 1000, 100_000])
def test_a_cache_without_room_keeps_nothing(characters: int) -> None:
    cache = TokenCache(0)
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), cache)
    text = conversation(1)[:characters]
    assert tokenizer.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert (len(cache), cache.size_bytes, cache.hits) == (0, 0, 0)


def test_the_settled_part_of_a_trailing_incomplete_chunk_is_a_hit() -> None:
    cache = TokenCache(10_000_000)
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), cache)
    plain = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(0))
    text = conversation(1)
    for end in range(700, len(text), 777):
        shorter = text[:end]
        assert tokenizer.encode(shorter, add_special_tokens=False) == plain.encode(shorter, add_special_tokens=False)
        hit = tokenizer.find_prefix(shorter)
        assert end - 200 < hit.settled_chars <= end
        assert hit.chunk_end == last_whole_chunk(end)
        other = shorter + "!"
        assert tokenizer.find_prefix(other).settled_chars == hit.settled_chars
        assert tokenizer.encode(other, add_special_tokens=False) == plain.encode(other, add_special_tokens=False)


def test_the_cached_prefix_of_a_text_ends_where_another_differs() -> None:
    cache = TokenCache(10_000_000)
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), cache)
    text = conversation(1)
    tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.find_prefix(text).chunk_end == last_whole_chunk(len(text))
    middle = len(text) // 2
    hit = tokenizer.find_prefix(text[:middle] + "!" + text[middle:])
    assert hit.chunk_end == last_whole_chunk(middle)
    assert hit.chunk_end - 200 < hit.settled_chars <= hit.chunk_end


def test_conversations_that_share_a_start_do_not_disturb_each_other() -> None:
    cache = TokenCache(10_000_000)
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), cache)
    plain = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(0))
    for _ in range(2):
        for number in range(4):
            text = conversation(0) + conversation(number)
            assert tokenizer.encode(text, add_special_tokens=True) == plain.encode(text, add_special_tokens=True)


def test_a_cache_that_is_always_full_still_gives_the_right_tokens_and_keeps_to_its_bound() -> None:
    cache = TokenCache(60_000)
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), cache)
    plain = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(0))
    for number in (0, 1, 2, 1, 0, 3, 0):
        text = conversation(number)
        assert tokenizer.encode(text, add_special_tokens=False) == plain.encode(text, add_special_tokens=False)
        assert cache.size_bytes <= cache.capacity


def test_tokens_of_one_tokenizer_are_not_those_of_another(tmp_path: Path) -> None:
    other = (BUILTIN / "tokenizer.json").read_text(encoding="utf-8").replace('"<|say|>"', '"<|SAY|>"')
    (tmp_path / "tokenizer.json").write_text(other, encoding="utf-8")
    cache = TokenCache(10_000_000)
    one, two = (TextTokenizer(LoadedVocabulary(read_model_files(folder)), cache) for folder in (BUILTIN, tmp_path))
    tokens = [tokenizer.encode(conversation(1), add_special_tokens=False) for tokenizer in (one, two)]
    assert tokens[0] != tokens[1]
