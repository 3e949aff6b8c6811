"""Mistral's own repositories: prompts equal those of vLLM 0.32, whose own functions gave vllm/mistral-nemo.json."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.renderers.mistral import MistralRenderer, mistral_tokenizer_file
from service.prompts.tokens.token_cache import TokenCache
from tests.service.prompts.bodies import BODIES

EXPECTED = json.loads((Path(__file__).parent / "vllm" / "mistral-nemo.json").read_text())


@pytest.fixture(scope="module")
def nemo(shared: Path) -> MistralRenderer:
    pytest.importorskip("mistral_common", reason="mistral-common is not installed")
    file = mistral_tokenizer_file(shared / "models" / "mistralai" / "Mistral-Nemo-Instruct-2407")
    assert file is not None
    return MistralRenderer(file, TokenCache(1 << 22))


@pytest.mark.parametrize("name", BODIES)
def test_a_chat_has_the_tokens_of_vllm(nemo: MistralRenderer, name: str) -> None:
    if EXPECTED["chats"][name] is None:
        with pytest.raises((PromptError, msgspec.ValidationError)):
            nemo.render(msgspec.convert(BODIES[name], Chat))
    else:
        for _ in range(2):  # the second time from the cache
            chat = msgspec.convert(BODIES[name], Chat)
            assert nemo.render(chat).tokens.tolist() == EXPECTED["chats"][name]


def test_a_text_begins_with_the_token_for_the_beginning_and_holds_no_special_token(nemo: MistralRenderer) -> None:
    for text, special, bare in EXPECTED["texts"]:
        for _ in range(2):
            assert nemo.encode(text, add_special_tokens=True).tolist() == special
            assert nemo.encode(text, add_special_tokens=False).tolist() == bare


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("tekken.json", "consolidated.safetensors"), "tekken.json"),
        (("tekken.json", "tokenizer.json"), "tekken.json"),
        (("tekken.json", "model.safetensors"), None),
        (("tokenizer.model.v3", "consolidated-00001-of-00002.safetensors"), "tokenizer.model.v3"),
        (("tokenizer.json", "consolidated.safetensors"), None),
    ],
)
def test_a_repository_of_mistral_is_known_by_its_files(
    tmp_path: Path, files: tuple[str, ...], expected: str | None
) -> None:
    for file in files:
        (tmp_path / file).touch()
    assert mistral_tokenizer_file(tmp_path) == (None if expected is None else tmp_path / expected)
