from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from tests.service.prompts.conversations import CASES, Case, Message, random_case
from tests.service.prompts.oracle import Oracle

GRANITE = "ibm-granite/granite-3.3-2b-instruct"
MODELS = (GRANITE, "deepseek-ai/DeepSeek-V3.1")
TEMPLATES = (
    "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-V3.1",
    "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "meta-llama-Llama-3.1-8B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "moonshotai-Kimi-K2",
)
SPECIAL_TOKENS = {"bos_token": "<|start_of_cite|>", "eos_token": {"__type": "AddedToken", "content": "<|end_of_text|>"}}
WALKS_PARTS = ("moonshotai-Kimi-K2",)
RANDOM_CASES = 25


class Twins:
    """Models loaded twice: by us, and by the oracle. A template's name stands for Granite with that template."""

    def __init__(self, shared: Path, folder: Path) -> None:
        self._shared = shared
        self._folder = folder
        self._oracles: dict[str, Oracle] = {}
        self.models = Models(PromptOptions(models_dir=folder, max_models=len(MODELS) + len(TEMPLATES)))

    async def load(self, name: str) -> tuple[Model, Oracle]:
        base = GRANITE if name in TEMPLATES else name
        source = self._shared / "models" / base
        if name not in TEMPLATES:
            self._link(name, source.iterdir())
            return await self.models.get(name), self._oracle(name)
        template = (self._shared / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
        for folder in ("templates/any", f"templates/{name}"):
            self._link(folder, [source / "tokenizer.json"])
            (self._folder / folder / "chat_template.jinja").write_text(template, encoding="utf-8")
            (self._folder / folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL_TOKENS))
        oracle = self._oracle("templates/any")  # to read a vocabulary takes long
        return await self.models.get(f"templates/{name}"), oracle.with_template(template)

    def _link(self, name: str, files: Iterable[Path]) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)

    def _oracle(self, name: str) -> Oracle:
        if name not in self._oracles:
            self._oracles[name] = Oracle(self._folder / name)
        return self._oracles[name]


@pytest.fixture(scope="module")
def twins(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    twins = Twins(shared, tmp_path_factory.mktemp("models"))
    yield twins
    asyncio.run(twins.models.close())


def as_text(messages: list[Message]) -> list[Message]:
    """What vLLM hands to a template that takes content as a string."""
    return [{**message, "content": message["content"] or ""} for message in messages]


def as_parts(messages: list[Message]) -> list[Message]:
    """What vLLM hands to a template that walks the parts of a message's content."""
    return [
        message
        if message["role"] == "tool"
        else {
            **message,
            "content": [] if message["content"] is None else [{"type": "text", "text": message["content"]}],
        }
        for message in messages
    ]


def expected(oracle: Oracle, case: Case, *, parts: bool) -> str | None:
    """The oracle's text, or None where it refuses."""
    try:
        return oracle.render(as_parts(case.messages) if parts else as_text(case.messages), case.given)
    except Exception:
        return None


async def compare(model: Model, oracle: Oracle, case: Case, *, parts: bool = False) -> bool:
    """Holds a rendering against the oracle's; gives whether there was one."""
    text = expected(oracle, case, parts=parts)
    chat = msgspec.convert(case.request, Chat)
    if text is None:
        with pytest.raises(PromptError):
            await model.render(chat)
        return False
    rendered = await model.render(chat)
    assert rendered.text == text, case.name
    assert rendered.tokens.tolist() == oracle.tokens(text), case.name
    return True


@pytest.mark.parametrize("name", TEMPLATES)
async def test_each_field_of_a_request_renders_as_transformers_renders_it(twins: Twins, name: str) -> None:
    model, oracle = await twins.load(name)
    # Parts are told apart by hand where they are not just the text in one piece.
    cases = [case for case in CASES if name not in WALKS_PARTS or "parts" not in case.name]
    rendered = [await compare(model, oracle, case, parts=name in WALKS_PARTS) for case in cases]
    assert sum(rendered) > len(cases) // 2


@pytest.mark.parametrize("name", (*MODELS, *TEMPLATES))
async def test_random_conversations_render_as_transformers_renders_them(twins: Twins, name: str) -> None:
    model, oracle = await twins.load(name)
    random_ = random.Random(name)
    added = [*list(oracle.tokenizer.added_tokens_encoder)[:40], "<|im_start|>", "<start_of_turn>", "[INST]"]
    cases = [random_case(random_, added) for _ in range(RANDOM_CASES)]
    rendered = [await compare(model, oracle, case, parts=name in WALKS_PARTS) for case in cases]
    assert any(rendered)


@pytest.mark.parametrize("name", MODELS)
async def test_each_field_of_a_request_renders_with_the_models_own_template(twins: Twins, name: str) -> None:
    model, oracle = await twins.load(name)
    rendered = [await compare(model, oracle, case) for case in CASES]
    assert sum(rendered) > len(CASES) // 2
