"""The tokenizer is the one that AutoTokenizer loads."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.tokenizer_class import tokenizer_class
from service.prompts.tokens.vocabulary import LoadedVocabulary
from tests.service.prompts.texts import random_text
from tests.service.prompts.tokenizers_of_all_kinds import SPECIAL, tokenizer_of
from tests.tries import tries

TEXTS = tries(60, 200)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama 2": ("llama 2", "llama", {"tokenizer_class": "LlamaTokenizer", "legacy": False}),
    "llama 2, legacy": ("llama 2", "llama", {"tokenizer_class": "LlamaTokenizerFast", "legacy": True}),
    "llama 2, without a space before": (
        "llama 2",
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False},
    ),
    "code llama": ("llama 2", "code_llama", {"tokenizer_class": "CodeLlamaTokenizer"}),
    "gpt2 with digits apart": ("digits and punctuation", "llama", {"tokenizer_class": "GPT2Tokenizer"}),
    "starcoder2": ("digits and punctuation", "starcoder2", {"tokenizer_class": "GPT2TokenizerFast"}),
    "gpt neox": ("qwen", "gpt_neox", {"tokenizer_class": "GPTNeoXTokenizer"}),
    "qwen2": ("gpt2", "qwen2", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "qwen3": ("gpt2", "qwen3", {"tokenizer_class": "Qwen2Tokenizer"}),
    "qwen3.5": ("gpt2", "qwen3_5", {"tokenizer_class": "Qwen2Tokenizer"}),
    "gemma": ("llama 2", "gemma2", {"tokenizer_class": "GemmaTokenizer"}),
    "cohere": ("gpt2", "cohere2", {"tokenizer_class": "CohereTokenizerFast"}),
    "granite": ("digits and punctuation", "granite", {"tokenizer_class": "GPT2Tokenizer"}),
    "the class of the file": ("o200k", "gpt_oss", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "no class": ("qwen", "llama", {}),
}


def saved(folder: Path, kind: str, model_type: str, config: dict[str, Any]) -> Path:
    """Writes the files of a model."""
    tokenizer_of(kind).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def auto_tokenizer(folder: Path) -> Any:
    import transformers  # noqa: PLC0415 - slow to load

    return transformers.AutoTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_of_auto_tokenizer(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, *CASES[name])
    ours = TextTokenizer(LoadedVocabulary(read_model_files(folder)), TokenCache(1_000_000))
    theirs = auto_tokenizer(folder)
    assert ours.is_known_class
    random_ = random.Random(name)
    for text in (random_text(random_, SPECIAL) for _ in range(TEXTS)):
        for special in (False, True):
            expected = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, add_special_tokens=special).tolist() == expected, text


@pytest.mark.parametrize("name", CASES)
def test_special_tokens_are_those_of_auto_tokenizer(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, *CASES[name])
    theirs = auto_tokenizer(folder).special_tokens_map
    assert read_model_files(folder).special_tokens.variables == {name: str(token) for name, token in theirs.items()}


def test_the_class_changes_the_tokens(tmp_path: Path) -> None:
    folder = saved(tmp_path, *CASES["gpt2 with digits apart"])
    ours = TextTokenizer(LoadedVocabulary(read_model_files(folder)), TokenCache(0))
    as_it_is = Tokenizer.from_file(str(folder / "tokenizer.json"))
    random_ = random.Random(1)
    texts = [random_text(random_, SPECIAL) for _ in range(TEXTS)]
    assert any(ours.encode(text, add_special_tokens=False).tolist() != as_it_is.encode(text).ids for text in texts)


def test_a_class_that_is_not_known_takes_the_file_and_says_so(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert", "bert", {"tokenizer_class": "BertTokenizer"})
    tokenizer = TextTokenizer(LoadedVocabulary(read_model_files(folder)), TokenCache(0))
    assert not tokenizer.is_known_class
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the word").ids
    assert tokenizer.encode("the word", add_special_tokens=True).tolist() == expected


@pytest.mark.parametrize(
    ("name", "model_type", "declared", "expected"),
    [
        ("org/x", None, "LlamaTokenizer", "TokenizersBackend"),
        ("org/x", "llama", None, "TokenizersBackend"),
        ("org/x", "no-such-type", "LlamaTokenizerFast", "LlamaTokenizer"),
        ("org/x", "qwen2", "LlamaTokenizerFast", "Qwen2Tokenizer"),
        ("org/x", "granite", "GPT2Tokenizer", "TokenizersBackend"),
        ("org/x", "mistral", "LlamaTokenizer", "TokenizersBackend"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama", "LlamaTokenizerFast", "TokenizersBackend"),
    ],
)
def test_the_class_is_decided_by_the_model_type_and_the_declared_class(
    name: str, model_type: str | None, declared: str | None, expected: str
) -> None:
    model_config = {"model_type": model_type} if model_type else {}
    assert tokenizer_class(name, model_config, {"tokenizer_class": declared}) == expected
