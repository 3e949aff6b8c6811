from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary
from tests.conftest import BUILTIN


def test_tokenizing_ends_soon_after_it_is_cancelled() -> None:
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(0))
    asked = 0

    def is_cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(CancelledError):
        tokenizer.encode("some words " * 100_000, add_special_tokens=False, is_cancelled=is_cancelled)
    assert asked == 4
