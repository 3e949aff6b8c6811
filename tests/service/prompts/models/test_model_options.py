"""The counterparts of engines' flags that change prompts. The live tests compare them with a real vLLM."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from service.contract.model_options import ModelOptions
from service.prompts.chat import Chat
from service.prompts.errors import ModelUnavailable
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from tests.conftest import BUILTIN

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "now"}}
VARIABLES = (
    "{{ reasoning_effort }}|{{ enable_thinking }}|{{ tone }}|{{ tools is none }}|"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
PARTS = "{% for m in messages %}{% for part in m.content %}<{{ part.text }}>{% endfor %}{% endfor %}"

Load: TypeAlias = Callable[..., Awaitable[Model]]


@pytest.fixture
async def load(tmp_path: Path) -> AsyncIterator[Load]:
    """Loads the built-in model under another name, with options of its engines."""
    shutil.copytree(BUILTIN, tmp_path / "m")
    loaded = []

    async def start(**options: Any) -> Model:
        models = Models(PromptOptions(models_dir=tmp_path, model_options={"m": ModelOptions(**options)}))
        loaded.append(models)
        return await models.get("m")

    yield start
    for models in loaded:
        await models.close()


async def text(model: Model, **fields: Any) -> str:
    return (await model.render(Chat(messages=HI, **fields))).text


async def test_a_chat_template_as_source_or_as_a_file(load: Load, tmp_path: Path) -> None:
    assert (await text(await load(chat_template=VARIABLES))).endswith("|Hi")
    (tmp_path / "own.jinja").write_text("own: {{ messages[0].content }}")
    assert await text(await load(chat_template="own.jinja")) == "own: Hi"
    assert await text(await load(chat_template=str(tmp_path / "own.jinja"))) == "own: Hi"


async def test_a_template_that_is_missing_is_named(load: Load) -> None:
    with pytest.raises(ModelUnavailable, match=r"missing\.jinja"):
        await load(chat_template="missing.jinja")


async def test_default_variables_are_below_those_of_the_request(load: Load) -> None:
    model = await load(chat_template=VARIABLES, default_chat_template_kwargs={"tone": "dry", "enable_thinking": False})
    assert await text(model) == "|False|dry|True|Hi"
    assert await text(model, chat_template_kwargs={"tone": "warm"}) == "|False|warm|True|Hi"
    assert await text(model, reasoning_effort="low") == "low|True|dry|True|Hi"


async def test_efforts_are_mapped(load: Load) -> None:
    model = await load(chat_template=VARIABLES, reasoning_effort_map={"xhigh": "ultra", "low": "none"})
    assert await text(model, reasoning_effort="xhigh") == "ultra|True||True|Hi"
    assert await text(model, reasoning_effort="low") == "none|False||True|Hi"
    assert await text(model, reasoning_effort="high") == "high|True||True|Hi"


async def test_tools_are_left_out_if_none_may_be_chosen(load: Load) -> None:
    model = await load(chat_template=VARIABLES, exclude_tools_when_tool_choice_none=True)
    assert await text(model, tools=[TOOL], tool_choice="none") == "|||True|Hi"
    assert await text(model, tools=[TOOL]) == "|||False|Hi"


async def test_the_content_format_is_not_detected_but_given(load: Load) -> None:
    assert await text(await load(chat_template=PARTS)) == "<Hi>"
    assert await text(await load(chat_template=PARTS, chat_template_content_format="string")) == "<><>"


async def test_the_length_of_the_model_bounds_a_prompt(load: Load) -> None:
    model = await load(max_model_len=5)
    assert model.max_model_length == 5
    assert len((await model.render(Chat(messages=HI, truncate_prompt_tokens=-1))).tokens) == 4


async def test_the_length_that_an_engine_gives_a_model_bounds_a_prompt(tmp_path: Path) -> None:
    shutil.copytree(BUILTIN, tmp_path / "m")
    models = Models(PromptOptions(models_dir=tmp_path), length_of={"m": 7}.get)
    try:
        model = await models.get("m")
        assert model.max_model_length == 7
        assert len((await model.render(Chat(messages=HI, truncate_prompt_tokens=-1))).tokens) == 6
    finally:
        await models.close()
