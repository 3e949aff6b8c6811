"""Where texts are tokenized: on the event loop, with turns for others, or in threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.threaded import ThreadedTokenizer
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary
from tests.conftest import BUILTIN

WORDS = " ".join(f"word{number} and others" for number in range(500))
"""More than ten thousand characters with a safe place every few of them."""


@pytest.fixture
def expected() -> TextTokenizer:
    return TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(0))


async def tokenized(text: str) -> tuple[list[int], int, bool]:
    """The tokens of a new text, how often others had a turn meanwhile, and whether a thread was used."""
    used, turns = threading.Event(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with ThreadPoolExecutor(1, initializer=used.set) as workers:
        tokenizer = ThreadedTokenizer(
            TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(1 << 20)), workers
        )
        other = asyncio.create_task(others())
        await asyncio.sleep(0)
        before = turns
        tokens = await tokenizer.encode(text, add_special_tokens=False)
        other.cancel()
    return list(tokens), turns - before, used.is_set()


async def test_others_have_turns_while_the_event_loop_tokenizes_ten_thousand_characters(
    expected: TextTokenizer,
) -> None:
    tokens, turns, used_a_thread = await tokenized(WORDS)
    assert tokens == list(expected.encode(WORDS, add_special_tokens=False))
    assert not used_a_thread
    assert turns >= len(WORDS) // 4096


@pytest.mark.parametrize("rest", ["", WORDS[:4000]])
async def test_a_text_that_cannot_be_cut_is_tokenized_in_a_thread(expected: TextTokenizer, rest: str) -> None:
    text = rest + "1234567890" * 500
    tokens, _, used_a_thread = await tokenized(text)
    assert tokens == list(expected.encode(text, add_special_tokens=False))
    assert used_a_thread


async def test_a_short_text_takes_one_turn(expected: TextTokenizer) -> None:
    tokens, turns, used_a_thread = await tokenized("Hello, others!")
    assert tokens == list(expected.encode("Hello, others!", add_special_tokens=False))
    assert (turns, used_a_thread) == (0, False)
