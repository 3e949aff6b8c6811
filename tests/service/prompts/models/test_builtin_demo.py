from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.prompts.chat import Chat
from service.prompts.models.catalog import Models
from tests.conftest import BUILTIN, ROOT


async def test_the_builtin_model_renders_every_role_and_its_tools(models: Models) -> None:
    model = await models.get("builtin/demo")
    rendered = await model.render(
        Chat(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "How warm is it?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "warmth", "arguments": '{"in": "°C"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "21"},
            ],
            tools=[{"type": "function", "function": {"name": "warmth", "parameters": {}}}],
        )
    )
    assert rendered.text == (
        "<|begin|><|role|>tools<|say|>You may call these functions:\n"
        '<|tools|>{"type": "function", "function": {"name": "warmth", "description": null, "parameters": {}}}\n'
        "<|end|>\n"
        "<|role|>system<|say|>Be brief.<|end|>\n"
        "<|role|>user<|say|>How warm is it?<|end|>\n"
        '<|role|>assistant<|say|><|call|>warmth {"in": "°C"}<|end|>\n'
        "<|role|>tool<|say|><|result|>1 21<|end|>\n"
        "<|role|>assistant<|say|>"
    )
    assert await model.detokenize(rendered.tokens) == rendered.text


async def test_a_plain_prompt_starts_with_the_token_that_begins_a_text(models: Models) -> None:
    model = await models.get("builtin/demo")
    tokens = await model.tokenize("Hello, world! 你好 🚀")
    assert await model.token_strings(tokens[:1]) == ["<|begin|>"]
    assert await model.tokenize("Hello, world! 你好 🚀", add_special_tokens=False) == tokens[1:]


def test_training_gives_the_tokenizer_that_is_built_in(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "train_demo_tokenizer.py"
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True, capture_output=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (BUILTIN / name).read_bytes()
