"""Tokenizer files of strangers that make the tokenizer library fail."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions

BASE: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "b c": 2}, "unk_token": "none"},
}


def normalizer(charsmap: bytes) -> dict[str, Any]:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}}


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    made = Models(PromptOptions(models_dir=tmp_path))
    yield made
    await made.close()


def write(folder: Path, **changes: Any) -> None:
    (folder / "m").mkdir()
    (folder / "m" / "tokenizer.json").write_text(json.dumps({**BASE, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        normalizer(b""),
        normalizer(struct.pack("<I", 4) + b"\xff\xff\xff\xff" + b"a\0"),
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
)
async def test_a_tokenizer_that_panics_is_unavailable(models: Models, tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json cannot be read"):
        await models.get("m")


async def test_a_text_that_the_tokenizer_fails_on_is_refused(models: Models, tmp_path: Path) -> None:
    write(tmp_path)
    model = await models.get("m")
    assert (await model.tokenize("a")).tolist() == [0]
    with pytest.raises(PromptError, match=r"tokenizer fails: .*UNK"):
        await model.tokenize("zzz")
