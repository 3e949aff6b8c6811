from __future__ import annotations

import pytest

from service.offline.prompt_lines import PromptLines, read_prompt
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions


def test_lines_that_are_no_prompt_are_counted_by_number() -> None:
    lines = PromptLines(
        [
            b'{"prompt": "text"}\n',
            b"\n",
            b'{"prompt": "text", "tokens": [1]}\n',
            b'{"model": "m"}\n',
            b'{"tokens": [-1]}\n',
            b'{"tokens": [1, 2], "after": 3}\n',
            b'{"tokens": [1',
        ]
    )
    assert [(numbered.number, numbered.line.at_end) for numbered in lines] == [(1, True), (6, False)]
    assert lines.malformed == 4
    assert lines.malformed_lines == [3, 4, 5, 7]


@pytest.mark.parametrize(
    ("line", "like"),
    [
        (b'{"tokens": [1, 2, 3]}', [1, 2, 3]),
        (b'{"prompt": [1, 2, 3]}', [1, 2, 3]),
        (b'{"prompt": "The old lighthouse keeper"}', "The old lighthouse keeper"),
    ],
)
async def test_a_prompt_is_ids_or_a_text_that_is_tokenized(line: bytes, like: list[int] | str) -> None:
    models = Models(PromptOptions())
    (numbered,) = PromptLines([line])
    prompt = await read_prompt(numbered, models, "builtin/demo")
    expected = await (await models.get("builtin/demo")).tokenize(like) if isinstance(like, str) else like
    assert prompt.model == "builtin/demo"
    assert list(prompt.tokens) == list(expected)
    await models.close()


async def test_a_chat_is_rendered_with_all_that_it_brings() -> None:
    models = Models(PromptOptions())
    lines = (
        b"""{"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": false, "cache_salt": "s"}"""
    )
    (numbered,) = PromptLines([lines])
    prompt = await read_prompt(numbered, models, "builtin/demo")
    text = await (await models.get("builtin/demo")).detokenize(prompt.tokens)
    assert text.endswith("user<|say|>Hello<|end|>\n")
    assert prompt.cache_salt == "s"
    await models.close()
