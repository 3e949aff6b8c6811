"""Tokens, cached and cut and put together again, are those of the text as a whole.

Run with TEXTS=1000000 and --timeout 0 to try that many texts each.
"""

from __future__ import annotations

import os
import random
import zlib
from array import array
from pathlib import Path
from typing import NamedTuple

import pytest
from tokenizers import Tokenizer

from service.prompts.models.model_files import ModelFiles, read_model_files
from service.prompts.tokens.segmentation import CutSizes
from service.prompts.tokens.token_cache import ChunkSizes, TokenCache
from service.prompts.tokens.tokenization import NotKnown, TextTokenizer, finished
from service.prompts.tokens.vocabulary import LoadedVocabulary
from tests.conftest import BUILTIN
from tests.service.prompts.texts import growing_texts
from tests.service.prompts.tokenizers_of_all_kinds import KINDS, tokenizer_of
from tests.tries import tries

TEXTS = int(os.environ.get("TEXTS", "0"))
SHARED = ("ibm-granite/granite-3.3-2b-instruct", "deepseek-ai/DeepSeek-V3.1")


class Cuts(NamedTuple):
    """Sizes of pieces and chunks."""

    name: str
    pieces: CutSizes = CutSizes()
    chunks: ChunkSizes = ChunkSizes()


@pytest.fixture(params=[Cuts("default"), Cuts("small", CutSizes(8, 20), ChunkSizes(8, 24))], ids=lambda cuts: cuts.name)
def cuts(request: pytest.FixtureRequest) -> Cuts:
    """The sizes in use, and sizes so small that each text has many cuts of every kind."""
    assert isinstance(request.param, Cuts)
    return request.param


def hold_against(whole: Tokenizer, files: ModelFiles, texts: int, seed: str, cuts: Cuts) -> TokenCache:
    """Tokenizes growing texts with a cache that is too small for them all; gives the cache."""
    cache = TokenCache(200_000, cuts.chunks)
    vocabulary = LoadedVocabulary(files)
    pieces = TextTokenizer(vocabulary, cache, cuts.pieces)
    asked = TextTokenizer(vocabulary, TokenCache(200_000, cuts.chunks), cuts.pieces)
    added = [token.content for token in whole.get_added_tokens_decoder().values()]
    random_ = random.Random(zlib.crc32(seed.encode()))
    tried = 0
    while tried < (TEXTS or texts):
        for text in growing_texts(random_, added[:40] + added[-40:]):
            for special in (False, True):
                tokens = array("I", whole.encode(text, add_special_tokens=special).ids)
                assert pieces.encode(text, add_special_tokens=special) == tokens, repr(text)
                assert by_questions(asked, text, special) == tokens, repr(text)
            tried += 1
    assert cache.size_bytes <= cache.capacity
    return cache


def by_questions(tokenizer: TextTokenizer, text: str, special: bool) -> array[int]:
    """The tokens of a text, asked for beforehand, as of a vocabulary in a process."""
    prefix = tokenizer.find_prefix(text)
    known: dict[str, bytes] = {}
    for question in tokenizer.questions(text, prefix):
        known |= tokenizer.answer(question)
    try:
        return finished(tokenizer.steps(text, add_special_tokens=special, prefix=prefix, known=known))
    except NotKnown:  # the cache is too small for one text
        return tokenizer.encode(text, add_special_tokens=special)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_whole_text_for_tokenizers_of_all_kinds(kind: str, cuts: Cuts, tmp_path: Path) -> None:
    file = str(tmp_path / "tokenizer.json")
    tokenizer_of(kind).save(file)
    # Also read from the file, which rounds what a trained model scores, so that what scored the same may no longer.
    hold_against(Tokenizer.from_file(file), read_model_files(tmp_path), 40, kind + cuts.name, cuts)


def test_tokens_are_those_of_the_whole_text_for_the_builtin_model(cuts: Cuts) -> None:
    whole = Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))
    cache = hold_against(whole, read_model_files(BUILTIN), tries(100, 2000), cuts.name, cuts)
    assert cache.hits > cache.misses


@pytest.mark.parametrize("name", SHARED)
def test_tokens_are_those_of_the_whole_text_for_real_models(shared: Path, name: str, cuts: Cuts) -> None:
    folder = shared / "models" / name
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cache = hold_against(whole, read_model_files(folder), tries(100, 2000), cuts.name, cuts)
    assert cache.hits > cache.misses
