"""The built-in model's prompts equal those that vLLM 0.32 rendered: scripts/prompt_parity.py --save."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from tests.service.prompts.bodies import BODIES, TEXTS

EXPECTED = json.loads((Path(__file__).parent / "vllm" / "builtin-demo.json").read_text())


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    models = Models(PromptOptions())
    yield await models.get("builtin/demo")
    await models.close()


@pytest.mark.parametrize("name", EXPECTED["chats"])
async def test_a_chat_has_the_tokens_of_vllm(model: Model, name: str) -> None:
    expected = EXPECTED["chats"][name]
    if expected is None:
        with pytest.raises((PromptError, msgspec.ValidationError)):
            await model.render(msgspec.convert(BODIES[name], Chat))
    else:
        assert (await model.render(msgspec.convert(BODIES[name], Chat))).tokens.tolist() == expected


async def test_texts_have_the_tokens_of_vllm(model: Model) -> None:
    for name, expected in EXPECTED["texts"].items():
        assert (await model.tokenize(TEXTS[name])).tolist() == expected, name
