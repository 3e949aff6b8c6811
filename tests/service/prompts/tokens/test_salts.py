"""TOKEN_CACHE_BY_SALT: what one tenant's texts leave in the cache speeds up no other tenant's."""

from __future__ import annotations

from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import _MAX_SALTS, TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary
from tests.conftest import BUILTIN
from tests.service.prompts.tokens.test_token_cache import conversation


def hits_of(tokenizer: TextTokenizer, cache: TokenCache, text: str, salt: str | None) -> int:
    """The characters of a text that the cache had."""
    before = cache.hits
    tokenizer.encode(text, add_special_tokens=False, salt=salt)
    return cache.hits - before


def test_a_text_of_one_salt_is_no_hit_for_another_or_for_none() -> None:
    cache = TokenCache(10_000_000)
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), cache)
    text = conversation(1)[:5000]
    plain = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(0)).encode(
        text, add_special_tokens=False
    )
    for salt in ("a", "b", None):
        fresh = hits_of(tokenizer, cache, text, salt)
        assert hits_of(tokenizer, cache, text, salt) > fresh + len(text) // 2
        assert tokenizer.encode(text, add_special_tokens=False, salt=salt) == plain
        assert tokenizer.find_prefix(text, salt).settled_chars > 0
        assert tokenizer.find_prefix(text, f"not {salt}").settled_chars == 0


def test_the_salts_that_are_remembered_are_bounded() -> None:
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(BUILTIN)), TokenCache(10_000_000))
    text = conversation(1)[:2000]
    for number in range(_MAX_SALTS + 5):
        tokenizer.find_prefix(text, str(number))
    assert len(tokenizer._of_salt) == _MAX_SALTS
