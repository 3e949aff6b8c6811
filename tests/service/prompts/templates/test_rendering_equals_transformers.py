from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from tests.conftest import BUILTIN
from tests.service.prompts.comparison import compare
from tests.service.prompts.conversations import CASES, random_case
from tests.service.prompts.oracle import Oracle
from tests.tries import tries

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
OWN = Path(__file__).parent / "own"
OWN_TEMPLATES = tuple(sorted(path.stem for path in OWN.glob("*.jinja")))
OWN_WALKS_PARTS = ("parts",)
RANDOM_CASES = tries(3, 25)


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


@pytest.fixture(scope="module")
def own_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Templates of this repository, with the tokenizer of the built-in model."""
    folder = tmp_path_factory.mktemp("own")
    for name in OWN_TEMPLATES:
        (folder / name).mkdir()
        (folder / name / "chat_template.jinja").write_bytes((OWN / f"{name}.jinja").read_bytes())
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name / file).symlink_to(BUILTIN / file)
    models = Models(PromptOptions(models_dir=folder, max_models=len(OWN_TEMPLATES)))
    yield models
    asyncio.run(models.close())


@pytest.mark.parametrize("name", OWN_TEMPLATES)
async def test_a_template_of_each_kind_renders_as_transformers_renders_it(own_models: Models, name: str) -> None:
    model = await own_models.get(name)
    oracle = Oracle(BUILTIN).with_template((OWN / f"{name}.jinja").read_text(encoding="utf-8"))
    random_ = random.Random(name)
    parts = name in OWN_WALKS_PARTS
    cases = [case for case in CASES if not parts or "parts" not in case.name]
    cases += [random_case(random_, ["<|role|>", "<|end|>", "<s>"]) for _ in range(RANDOM_CASES)]
    rendered = [await compare(model, oracle, case, parts=parts) for case in cases]
    assert sum(rendered) > len(cases) // 3


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
