"""gpt-oss: prompts equal those of vLLM 0.32, whose own functions gave vllm/gpt-oss.json for the bodies."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest

from service.prompts.chat import Chat
from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from service.prompts.renderers.harmony import HarmonyRenderer
from service.prompts.tokens.token_cache import TokenCache
from tests.conftest import BUILTIN
from tests.service.prompts.bodies import BODIES

EXPECTED = json.loads((Path(__file__).parent / "vllm" / "gpt-oss.json").read_text())
DATE = "2026-01-02"


@pytest.fixture(scope="module")
def harmony() -> HarmonyRenderer:
    pytest.importorskip("openai_harmony", reason="oss-harmony is not installed")
    return HarmonyRenderer(TokenCache(1 << 20), today=lambda: DATE)


@pytest.mark.parametrize("name", BODIES)
def test_a_chat_has_the_tokens_of_vllm(harmony: HarmonyRenderer, name: str) -> None:
    if EXPECTED[name] is None:
        with pytest.raises((PromptError, msgspec.ValidationError)):
            harmony.render(msgspec.convert(BODIES[name], Chat))
    else:
        for _ in range(2):  # the second time from the cache
            chat = msgspec.convert(BODIES[name], Chat)
            assert harmony.render(chat).tokens.tolist() == EXPECTED[name]


def test_each_turn_from_the_cache_is_as_if_rendered_anew(harmony: HarmonyRenderer) -> None:
    turns = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two.", "reasoning": "Hm."},
        {"role": "user", "content": "Three?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "Tool.",
            "tool_calls": BODIES["tool call"]["messages"][1]["tool_calls"],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "12"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "Five?"},
    ]
    anew = HarmonyRenderer(TokenCache(0), today=lambda: DATE)
    for number in range(1, len(turns) + 1):
        chat = Chat(messages=turns[:number], tools=BODIES["tools"]["tools"])
        assert harmony.render(chat) == anew.render(chat)


def gpt_oss(folder: Path) -> Models:
    """A model of that type, with the tokenizer of another."""
    (folder / "oss").mkdir()
    for file in BUILTIN.iterdir():
        (folder / "oss" / file.name).symlink_to(file)
    (folder / "oss" / "config.json").write_text('{"model_type": "gpt_oss"}')
    return Models(PromptOptions(models_dir=folder))


async def test_a_model_of_type_gpt_oss_is_rendered_by_harmony(
    harmony: HarmonyRenderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_SYSTEM_START_DATE", DATE)
    models = gpt_oss(tmp_path)
    try:
        rendered = await (await models.get("oss")).render(msgspec.convert(BODIES["system"], Chat))
        assert rendered.tokens.tolist() == EXPECTED["system"]
        assert "<|start|>developer<|message|># Instructions" in rendered.text
    finally:
        await models.close()


async def test_without_the_package_the_answer_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai_harmony", None)
    models = gpt_oss(tmp_path)
    try:
        model = await models.get("oss")
        with pytest.raises(ModelUnavailable, match=r"oss-harmony.*pip install oss-harmony"):
            await model.render(Chat(messages=[{"role": "user", "content": "Hi"}]))
        assert await model.tokenize("plain text needs no package")
    finally:
        await models.close()


def test_a_content_part_without_a_type_is_refused_as_by_vllm(harmony: HarmonyRenderer) -> None:
    with pytest.raises(PromptError, match=r"messages\[0\]\.content\[0\]\.type"):
        harmony.render(Chat(messages=[{"role": "user", "content": [{"text": "Hi"}]}]))
