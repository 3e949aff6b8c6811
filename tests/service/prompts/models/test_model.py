from __future__ import annotations

import asyncio
import json
import random
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from tests.conftest import BUILTIN
from tests.service.prompts.oracle import Oracle
from tests.service.prompts.texts import random_text
from tests.tries import tries

HELLO = [{"role": "user", "content": "Hello, wörld! 🚀"}]


@pytest.fixture
async def model(models: Models) -> Model:
    return await models.get("builtin/demo")


async def test_a_text_comes_back_from_its_tokens(model: Model) -> None:
    text = "<|role|>user<|say|>Grüße, 你好 🚀\n\n"
    assert await model.detokenize(await model.tokenize(text, add_special_tokens=False)) == text
    assert await model.detokenize(await model.tokenize(text)) == "<|begin|>" + text


async def test_tokens_that_are_none_are_refused_or_spelled_as_nothing(model: Model) -> None:
    assert await model.token_strings([0, model.vocabulary_size, -1, 1 << 40]) == ["<|begin|>", None, None, None]
    for tokens in ([-1], [1 << 32]):
        with pytest.raises(PromptError):
            await model.detokenize(tokens)


async def test_special_tokens_are_added_to_a_chat_when_asked_for(model: Model) -> None:
    plain = await model.render(Chat(messages=HELLO))
    special = await model.render(Chat(messages=HELLO, add_special_tokens=True))
    assert special.text == plain.text
    assert special.tokens == array("I", [0]) + plain.tokens


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"truncate_prompt_tokens": 5}, lambda t: t[-5:]),
        ({"truncate_prompt_tokens": 5, "truncation_side": "left"}, lambda t: t[-5:]),
        ({"truncate_prompt_tokens": 5, "truncation_side": "right"}, lambda t: t[:5]),
        ({"truncate_prompt_tokens": 0}, lambda t: t[:0]),
        ({"truncate_prompt_tokens": 10_000}, lambda t: t),
        ({"truncate_prompt_tokens": -1}, lambda t: t),
        ({"truncate_prompt_tokens": 5, "add_special_tokens": True}, lambda t: array("I", [0]) + t[-4:]),
        ({"truncate_prompt_tokens": 5, "add_special_tokens": True, "truncation_side": "left"}, lambda t: t[-5:]),
    ],
)
async def test_a_chat_is_truncated_as_vllm_truncates_it(model: Model, fields: dict[str, Any], expected: Any) -> None:
    whole = (await model.render(Chat(messages=HELLO))).tokens
    assert (await model.render(Chat(messages=HELLO, **fields))).tokens == expected(whole)


async def test_truncation_that_keeps_special_tokens_is_that_of_the_tokenizer(model: Model) -> None:
    tokenizer = Oracle(BUILTIN).tokenizer
    tokenizer.truncation_side = "left"
    rendered = await model.render(Chat(messages=HELLO, add_special_tokens=True, truncate_prompt_tokens=7))
    assert rendered.tokens.tolist() == tokenizer(rendered.text, truncation=True, max_length=7)["input_ids"]


async def test_minus_one_keeps_what_the_model_takes_less_one_token_for_its_answer(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    for path in BUILTIN.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((BUILTIN / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 9}))
    models = Models(PromptOptions(models_dir=tmp_path))
    model = await models.get("small")
    whole = (await model.render(Chat(messages=HELLO))).tokens
    assert (await model.render(Chat(messages=HELLO, truncate_prompt_tokens=-1))).tokens == whole[-8:]
    assert model.max_model_length == 9
    await models.close()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, 5]}]}, "messages[0].content[1]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "reasoning": 5}]}, "messages[0].reasoning"),
        ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "x"}]}]}, "messages[0].tool_calls[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "x", "function": {"name": "f"}}]}, "tools[0]"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tools": [{"function": {"name": "f", "description": 1}}]}, "tools[0].function.description"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "any", "tools": [{"function": {"name": "f"}}]}, "tool_choice"),
        ({"tool_choice": {"function": {"name": "g"}}, "tools": [{"function": {"name": "f"}}]}, "tool_choice"),
        ({"tool_choice": {"function": "f"}, "tools": [{"function": {"name": "f"}}]}, "tool_choice"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": True}}, "chat_template_kwargs"),
        ({"chat_template": "x"}, "chat_template"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ],
)
async def test_what_is_wrong_with_a_chat_is_said_with_the_name_of_the_field(
    model: Model, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(PromptError) as caught:
        await model.render(Chat(**{"messages": HELLO, **fields}))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"image_url": "http://127.0.0.1/x.png"},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "x"}},
        {"type": "input_image", "image_url": "x"},
        {"type": "file", "file": {}},
    ],
)
async def test_a_part_that_is_no_text_is_refused_as_such(model: Model, part: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="only text is scored") as caught:
        await model.render(Chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]))
    assert caught.value.param == "messages[0].content[1]"


async def test_parts_stay_parts_for_a_template_that_walks_them() -> None:
    models = Models(PromptOptions(trust_request_chat_template=True))
    model = await models.get("builtin/demo")
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "x"}}, {"type": "refusal", "refusal": ""}]
    parts.append({"type": "text", "text": "b"})
    chat = Chat(
        messages=[
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None},
            {"role": "user", "content": ""},
            {"role": "tool", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": ""}]},
            {"role": "tool", "content": [{"type": "text", "text": "d"}, {"type": "tool_reference", "name": "e"}]},
        ],
        chat_template=(
            "{% for m in messages %}{{ m.content | tojson }};{% for part in m.content %}{% endfor %}{% endfor %}"
        ),
    )
    assert (await model.render(chat)).text == (
        '[{"type": "text", "text": "a", "cache_control": {"type": "x"}}, {"type": "text", "text": ""}, '
        '{"type": "text", "text": "b"}];[];[{"type": "text", "text": ""}];"c\\n";'
        '[{"type": "text", "text": "d"}, {"type": "tool_reference", "name": "e"}];'
    )
    await models.close()


async def test_a_final_message_that_the_template_shows_in_part_cannot_be_continued() -> None:
    models = Models(PromptOptions(trust_request_chat_template=True))
    model = await models.get("builtin/demo")
    parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "last  "}]
    walks = "{% for m in messages %}{% for part in m.content %}PART;{% endfor %}{% endfor %}"
    for content, template, text in (
        ("two words", "{{ messages[-1].content.split()[-1] }}", None),
        ("two words ", "{{ messages[-1].content }}!", "two words "),
        ("two words ", "{{ messages[-1].content | trim }}!", "two words"),
        (parts, walks.replace("PART", "{{ part.text }}"), "first;last  "),
        (parts, walks.replace("PART", "{{ part.text[-20:] }}"), None),
    ):
        chat = Chat(
            messages=[{"role": "assistant", "content": content}],
            chat_template=template,
            add_generation_prompt=False,
            continue_final_message=True,
        )
        if text is None:
            with pytest.raises(PromptError, match="cannot be continued"):
                await model.render(chat)
        else:
            assert (await model.render(chat)).text == text
    await models.close()


async def test_what_the_fields_of_a_request_say_is_no_variable_of_its_template() -> None:
    models = Models(PromptOptions(trust_request_chat_template=True))
    model = await models.get("builtin/demo")
    template = "{{ continue_final_message is defined }} {{ messages[0] | tojson }}"
    chat = Chat(
        messages=[{"content": "x", "role": "user"}],
        chat_template=template,
        chat_template_kwargs={"continue_final_message": True},
    )
    assert (await model.render(chat)).text == 'False {"role": "user", "content": "x"}'
    await models.close()


async def test_variables_named_as_globals_of_jinja_are_ignored() -> None:
    models = Models(PromptOptions(trust_request_chat_template=True))
    model = await models.get("builtin/demo")
    chat = Chat(
        messages=HELLO,
        chat_template="{% set ns = namespace(n=1) %}{{ ns.n }}{{ range(2) | list }}",
        chat_template_kwargs={"namespace": 1, "range": "x"},
    )
    assert (await model.render(chat)).text == "1[0, 1]"
    await models.close()


@pytest.mark.parametrize(
    ("variables", "is_taken"),
    [
        ({"tokenize": False}, True),
        ({"messages": None}, True),
        ({"messages": []}, False),
        ({"conversation": []}, False),
        ({"self": 1}, False),
        ({"tools": []}, True),
        ({"tools": "x"}, False),
        ({"tools": False}, False),
        ({"tools": [1]}, False),
        ({"documents": [{"title": "a", "text": "b"}]}, True),
        ({"documents": {"a": 1}}, False),
    ],
)
async def test_template_variables_are_taken_and_refused_as_in_vllm(
    model: Model, variables: dict[str, Any], is_taken: bool
) -> None:
    chat = Chat(messages=HELLO, chat_template_kwargs=variables)
    if is_taken:
        assert (await model.render(chat)).tokens
    else:
        with pytest.raises(PromptError) as caught:
            await model.render(chat)
        assert caught.value.param == "chat_template_kwargs"


async def test_a_variable_named_messages_is_ignored_by_a_template_that_does_not_read_messages() -> None:
    models = Models(PromptOptions(trust_request_chat_template=True))
    model = await models.get("builtin/demo")
    chat = Chat(messages=HELLO, chat_template="constant", chat_template_kwargs={"messages": []})
    assert (await model.render(chat)).text == "constant"
    await models.close()


async def test_what_is_nested_too_deep_is_refused_or_taken_for_nothing(model: Model) -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    for fields in ({"chat_template_kwargs": {"deep": deep}}, {"documents": [{"title": "", "text": deep}]}):
        with pytest.raises(PromptError, match="deep"):
            await model.render(Chat(messages=HELLO, **fields))
    call = {"function": {"name": "f", "arguments": "[" * 100_000}}
    rendered = await model.render(Chat(messages=[{"role": "assistant", "content": "", "tool_calls": [call]}]))
    assert "<|call|>f {}<|end|>" in rendered.text


async def test_a_conversation_is_not_changed_by_rendering_it(model: Model) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "y", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    ]
    before = json.dumps(messages)
    await model.render(Chat(messages=messages, add_generation_prompt=False, continue_final_message=True))
    assert json.dumps(messages) == before


async def test_a_prompt_that_is_too_long_is_refused() -> None:
    models = Models(PromptOptions(max_prompt_characters=100))
    model = await models.get("builtin/demo")
    with pytest.raises(PromptError, match="101 characters"):
        await model.tokenize("x" * 101)
    with pytest.raises(PromptError, match="characters"):
        await model.render(Chat(messages=[{"role": "user", "content": "x" * 90}]))
    await models.close()


async def test_the_reach_of_tokens_is_where_their_text_ends(model: Model) -> None:
    random_ = random.Random(5)
    added = ["<|role|>", "<|say|>", "<|end|>"]
    for _ in range(tries(60, 200)):
        text = random_text(random_, added)
        for special in (False, True):
            tokens = await model.tokenize(text, add_special_tokens=special)
            for count in {0, 1, 2, len(tokens) // 2, len(tokens)}:
                reach = await model.reach(text, tokens, count)
                said = await model.detokenize(tokens[special:count])
                # Half a character counts as the whole of it.
                assert text[:reach].startswith(said.rstrip("\ufffd")), (text, count)
                assert len(text[:reach]) <= len(said), (text, count)
        assert await model.reach(text, tokens, len(tokens)) == len(text)


async def test_the_reach_of_truncated_tokens_counts_what_was_cut_away(model: Model) -> None:
    text = "one two three four five six"
    tokens = await model.tokenize(text, add_special_tokens=False)
    assert await model.reach(text, tokens[-2:], 1) == len("one two three four five")
    assert await model.reach(text, tokens[:3], 2) == len("one two")
    with pytest.raises(PromptError):
        await model.reach(text, tokens[::-1], 1)


async def test_the_loop_runs_on_while_a_long_text_is_tokenized(model: Model) -> None:
    random_ = random.Random(6)
    longest = []
    for _ in range(3):
        text = "".join(random_text(random_, ["<|end|>"]) for _ in range(3000))[:500_000]
        task = asyncio.create_task(model.tokenize(text))
        longest.append(0.0)
        while not task.done():
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest[-1] = max(longest[-1], time.thread_time() - before)
    # The longest slice of the loop's own CPU time.
    assert min(longest) < 0.05


async def test_a_text_that_was_seen_is_tokenized_without_leaving_the_loop(model: Model) -> None:
    text = "Each word is followed by another one. " * 3000
    first = await model.tokenize(text)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    assert await model.tokenize(text) == first
    ticking.cancel()
    assert ticks == 0
