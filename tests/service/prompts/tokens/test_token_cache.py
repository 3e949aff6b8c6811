from __future__ import annotations

from pathlib import Path

import pytest

from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.token_cache import Known, TokenCache, stretch_end
from service.prompts.tokens.tokenization import TextTokenizer
from tests.conftest import BUILTIN


def conversation(number: int) -> str:
    turns = (f"<|role|>user<|say|>Question {number} of {turn}: what is there to say?<|end|>\n" for turn in range(300))
    return "<|begin|>" + "".join(turns)


def whole_stretches(characters: int) -> int:
    """Where the last whole stretch of a text of so many characters ends."""
    end = 0
    while stretch_end(end) <= characters:
        end = stretch_end(end)
    return end


def test_what_was_kept_is_known() -> None:
    cache, place = TokenCache(10_000), Known()
    cache.put(place, "text", b"1234")
    assert cache.get(place, "text") == b"1234"
    assert cache.get(Known(), "text") is None


def test_the_least_recently_used_is_let_go() -> None:
    cache, place = TokenCache(5_000), Known()
    for number in range(100):
        cache.put(place, str(number), b"")
        cache.get(place, "0")
    assert cache.get(place, "0") is not None
    assert cache.get(place, "1") is None
    assert cache.get(place, "99") is not None
    assert 0 < len(cache) < 20
    assert cache.used <= cache.capacity


@pytest.mark.parametrize("characters", [0, 10, 1000, 100_000])
def test_a_cache_without_room_keeps_nothing(characters: int) -> None:
    cache = TokenCache(0)
    tokenizer = TextTokenizer(read_model_files(BUILTIN), cache)
    text = conversation(1)[:characters]
    assert tokenizer.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert (len(cache), cache.used, cache.hits) == (0, 0, 0)


def test_what_follows_the_last_whole_stretch_is_recalled_as_far_as_it_is_settled() -> None:
    cache = TokenCache(10_000_000)
    tokenizer = TextTokenizer(read_model_files(BUILTIN), cache)
    plain = TextTokenizer(read_model_files(BUILTIN), TokenCache(0))
    text = conversation(1)
    for end in range(700, len(text), 777):
        shorter = text[:end]
        assert tokenizer.encode(shorter, add_special_tokens=False) == plain.encode(shorter, add_special_tokens=False)
        recalled = tokenizer.recall(shorter)
        assert end - 200 < recalled.done <= end
        assert recalled.seen == whole_stretches(end)
        other = shorter + "!"
        assert tokenizer.recall(other).done == recalled.done
        assert tokenizer.encode(other, add_special_tokens=False) == plain.encode(other, add_special_tokens=False)


def test_the_start_of_a_text_is_recalled_up_to_where_another_differs() -> None:
    cache = TokenCache(10_000_000)
    tokenizer = TextTokenizer(read_model_files(BUILTIN), cache)
    text = conversation(1)
    tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.recall(text).seen == whole_stretches(len(text))
    middle = len(text) // 2
    recalled = tokenizer.recall(text[:middle] + "!" + text[middle:])
    assert recalled.seen == whole_stretches(middle)
    assert recalled.seen - 200 < recalled.done <= recalled.seen


def test_conversations_that_share_a_start_do_not_disturb_each_other() -> None:
    cache = TokenCache(10_000_000)
    tokenizer = TextTokenizer(read_model_files(BUILTIN), cache)
    plain = TextTokenizer(read_model_files(BUILTIN), TokenCache(0))
    for _ in range(2):
        for number in range(4):
            text = conversation(0) + conversation(number)
            assert tokenizer.encode(text, add_special_tokens=True) == plain.encode(text, add_special_tokens=True)


def test_a_cache_that_is_always_full_still_gives_the_right_tokens_and_keeps_to_its_bound() -> None:
    cache = TokenCache(60_000)
    tokenizer = TextTokenizer(read_model_files(BUILTIN), cache)
    plain = TextTokenizer(read_model_files(BUILTIN), TokenCache(0))
    for number in (0, 1, 2, 1, 0, 3, 0):
        text = conversation(number)
        assert tokenizer.encode(text, add_special_tokens=False) == plain.encode(text, add_special_tokens=False)
        assert cache.used <= cache.capacity


def test_tokens_of_one_tokenizer_are_not_those_of_another(tmp_path: Path) -> None:
    other = (BUILTIN / "tokenizer.json").read_text(encoding="utf-8").replace('"<|say|>"', '"<|SAY|>"')
    (tmp_path / "tokenizer.json").write_text(other, encoding="utf-8")
    cache = TokenCache(10_000_000)
    one, two = (TextTokenizer(read_model_files(folder), cache) for folder in (BUILTIN, tmp_path))
    tokens = [tokenizer.encode(conversation(1), add_special_tokens=False) for tokenizer in (one, two)]
    assert tokens[0] != tokens[1]
