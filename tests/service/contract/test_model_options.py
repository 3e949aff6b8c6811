from __future__ import annotations

from pathlib import Path

import pytest

from service.contract.model_options import (
    ModelOptions,
    check_model_options,
    parse_model_options,
    read_model_options,
)

TEXT = '{"m": {"chat_template": "own.jinja", "default_chat_template_kwargs": {"enable_thinking": false}}, "n": {}}'
PARSED = {
    "m": ModelOptions(chat_template="own.jinja", default_chat_template_kwargs={"enable_thinking": False}),
    "n": ModelOptions(),
}


def test_options_have_the_names_of_vllms_flags() -> None:
    assert parse_model_options(TEXT) == PARSED


def test_options_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(TEXT)
    assert read_model_options(check_model_options(f"{tmp_path}/options.json")) == PARSED
    assert read_model_options(check_model_options(TEXT)) == PARSED
    assert read_model_options(check_model_options(" ")) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "must be JSON"),
        ('{"m": 1}', "the options of m must be an object"),
        ('{"m": {"template": "x"}}', "m: 'template' is not an option: there are chat_template"),
        ('{"m": {"chat_template": 1}}', "m: chat_template must be a text"),
        ('{"m": {"chat_template_content_format": "xml"}}', "must be one of auto, string, openai"),
        ('{"m": {"default_chat_template_kwargs": []}}', "must be an object"),
        ('{"m": {"reasoning_effort_map": {"huge": "high"}}}', "must be an object from none, minimal"),
        ('{"m": {"exclude_tools_when_tool_choice_none": 1}}', "must be true or false"),
        ('{"m": {"max_model_len": 0}}', "must be a whole number above 0"),
        ('{"m": {"renderer": "jinja"}}', "must be one of template"),
        ("options.yaml", "a path that ends in .json"),
    ],
)
def test_an_invalid_option_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        check_model_options(text)
