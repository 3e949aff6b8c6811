"""Models that requests may name with MODELS=*: their tokenizers are input of strangers."""

from __future__ import annotations

import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.prompts.chat import Chat
from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from tests.conftest import BUILTIN
from tests.service.prompts.fake_hub import FakeHub, Repository
from tests.service.prompts.models.test_broken_tokenizers import BASE, normalizer
from tests.service.prompts.templates.test_hostile_templates import pulse
from tests.service.prompts.texts import ODDITIES

FILES = {path.name: path.read_bytes() for path in BUILTIN.iterdir()}
SECONDS = 1.0
TEXT = "x" * 64

TIMES_A_THOUSAND = {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 1000}
HOSTILE: dict[str, dict[str, Any]] = {
    "prepends fifty megabytes": {"normalizer": {"type": "Prepend", "prepend": "x" * 50_000_000}},
    "multiplies three times": {"normalizer": {"type": "Sequence", "normalizers": [TIMES_A_THOUSAND] * 3}},
    "backtracks": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(x+x+)+y"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "panics at once": normalizer(b""),
    "panics at a text": {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "b c": 2}, "unk_token": "none"}},
    "nested too deep": {"decoder": json.loads('{"type":"Sequence","decoders":[' * 60 + '{"type":"Fuse"}' + "]}" * 60)},
}


@pytest.fixture
async def models(hub: FakeHub) -> AsyncIterator[Models]:
    made = Models(PromptOptions(models=("*",), render_timeout=SECONDS))
    yield made
    await made.close()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_tokenizer_is_refused_and_others_go_on(hub: FakeHub, models: Models, name: str) -> None:
    tokenizer = json.dumps({**BASE, **HOSTILE[name]}).encode()
    hub.repositories["org/hostile"] = Repository({"tokenizer.json": tokenizer})
    hub.repositories["org/good"] = Repository(FILES)
    await models.get("builtin/demo")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pulse() as measured:
        try:
            hostile = await models.get("org/hostile")
            await hostile.tokenize(TEXT)
        except (PromptError, ModelUnavailable):
            pass
        else:
            assert name == "nested too deep"  # the library may take it
    assert measured.longest < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB; the file itself passes through
    assert len(await (await models.get("org/good")).tokenize(TEXT))
    assert len(await (await models.get("builtin/demo")).tokenize(TEXT))


async def test_a_strangers_model_has_the_tokens_that_it_has_as_the_operators(hub: FakeHub, models: Models) -> None:
    hub.repositories["org/good"] = Repository(FILES)
    theirs, ours = await models.get("org/good"), await models.get("builtin/demo")
    assert (theirs.trusted, ours.trusted) == (False, True)
    assert theirs.vocabulary_size == ours.vocabulary_size
    for text in (*ODDITIES, "Hello, world! How are you?"):
        for _ in range(2):
            tokens = await theirs.tokenize(text)
            assert tokens == await ours.tokenize(text)
        assert await theirs.detokenize(tokens) == await ours.detokenize(tokens)
        assert await theirs.token_strings(tokens) == await ours.token_strings(tokens)
        half = len(tokens) // 2
        assert await theirs.reach(text, tokens, half) == await ours.reach(text, tokens, half)
    chat = Chat(messages=[{"role": "user", "content": "Hi"}])
    assert await theirs.render(chat) == await ours.render(chat)


async def test_what_a_strangers_tokenizer_refuses_is_said_as_the_operators_says_it(
    hub: FakeHub, models: Models
) -> None:
    hub.repositories["org/good"] = Repository(FILES)
    model = await models.get("org/good")
    with pytest.raises(PromptError, match="lone surrogate"):
        await model.tokenize("\ud800")
    with pytest.raises(PromptError, match="0 or more"):
        await model.detokenize([-1])


async def test_a_tokenizers_process_that_died_is_replaced(hub: FakeHub, models: Models) -> None:
    hub.repositories["org/good"] = Repository(FILES)
    model = await models.get("org/good")
    before = await model.tokenize(TEXT)
    assert models._loader is not None
    processes = models._loader._isolated._processes
    assert processes
    for process in processes:
        process.kill()
    assert await model.tokenize(TEXT) == before


async def test_a_corrupt_file_of_a_strangers_model_is_named(hub: FakeHub, models: Models) -> None:
    hub.repositories["org/bad"] = Repository(FILES | {"tokenizer.json": b"{"})
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json cannot be read"):
        await models.get("org/bad")


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/a.jinja"])
async def test_files_beside_a_strangers_tokenizer_are_bounded(hub: FakeHub, models: Models, file: str) -> None:
    hub.repositories["org/large"] = Repository(FILES | {file: b'{"a": "' + b" " * 5_000_000 + b'"}'})
    with pytest.raises(ModelUnavailable, match=r"more than 4194304 bytes"):
        await models.get("org/large")


async def test_a_strangers_model_of_mistral_is_rendered_in_the_process(
    hub: FakeHub, models: Models, shared: Path
) -> None:
    pytest.importorskip("mistral_common", reason="mistral-common is not installed")
    folder = shared / "models" / "mistralai" / "Mistral-Nemo-Instruct-2407"
    files = {name: (folder / name).read_bytes() for name in ("tekken.json", "consolidated.safetensors")}
    hub.repositories["org/mistral"] = Repository(files)
    theirs = await models.get("org/mistral")
    own = Models(PromptOptions(models_dir=folder.parent))
    ours = await own.get(folder.name)
    chat = Chat(messages=[{"role": "user", "content": "Hi"}])
    assert (theirs.trusted, theirs.renderer_name) == (False, "mistral")
    assert await theirs.render(chat) == await ours.render(chat)
    assert await theirs.tokenize("Hello") == await ours.tokenize("Hello")
    await own.close()
