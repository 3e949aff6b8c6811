from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.prompts.errors import BadModelFile
from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary
from tests.conftest import BUILTIN
from tests.service.prompts.oracle import Oracle

TEXT = "<|begin|> a <extra> b <image> c <|SAY|> d<new>  <|say|> e [X] f"


def added(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


def folder_with(tmp_path: Path, config: dict[str, Any], legacy: dict[str, Any] | None = None) -> Path:
    (tmp_path / "tokenizer.json").symlink_to(BUILTIN / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if legacy is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(legacy))
    return tmp_path


CONFIGURATIONS: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({}, None),
    ({"bos_token": "<|begin|>", "eos_token": None}, None),
    ({"bos_token": {"__type": "AddedToken", **added("<new>", rstrip=True)}, "pad_token": "[X]"}, None),
    ({"extra_special_tokens": ["<extra>", "<image>"]}, None),
    ({"additional_special_tokens": ["<extra>", {"__type": "AddedToken", **added("<new>", lstrip=True)}]}, None),
    ({"extra_special_tokens": {"image_token": "<image>", "extra_token": "<extra>"}}, None),
    ({"image_token": "<image>", "bos_token": "<|begin|>"}, None),
    ({"added_tokens_decoder": {"5000": added("<new>", special=False), "4": added("<|say|>", lstrip=True)}}, None),
    ({"bos_token": "<|begin|>"}, {"bos_token": "<|pad|>", "eos_token": added("<|end|>"), "unk_token": "<new>"}),
    ({"bos_token": "<|begin|>", "added_tokens_decoder": {}}, {"bos_token": "<|pad|>"}),
    ({"split_special_tokens": True}, None),
]


@pytest.mark.parametrize(("config", "legacy"), CONFIGURATIONS)
def test_configured_tokens_are_known_as_transformers_knows_them(
    config: dict[str, Any], legacy: dict[str, Any] | None, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, config, legacy)
    oracle, files = Oracle(folder), read_model_files(folder)
    tokens = TextTokenizer(LoadedVocabulary(files), TokenCache(1 << 20)).encode(TEXT, add_special_tokens=True)
    assert tokens.tolist() == oracle.tokens(TEXT, add_special_tokens=True)
    assert files.special_tokens.variables == oracle.tokenizer.special_tokens_map


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"x": added("<new>")}},
        {"added_tokens_decoder": [1]},
        {"bos_token": {"content": "<n>", "lstrip": "yes"}},
    ],
)
def test_configured_tokens_that_are_none_are_refused_with_the_name_of_the_file(
    config: dict[str, Any], tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, config)
    with pytest.raises(BadModelFile, match=r"tokenizer_config\.json"):
        TextTokenizer(LoadedVocabulary(read_model_files(folder)), TokenCache(0))
