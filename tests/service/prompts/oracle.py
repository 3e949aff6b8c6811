"""The oracle for prompts: transformers."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import jinja2


class Oracle:
    """A tokenizer of transformers, loaded from a model's folder."""

    def __init__(self, folder: Path) -> None:
        import transformers  # noqa: PLC0415 - slow to load

        self._template: str | None = None
        # Not AutoTokenizer, which without a model's config.json takes another class and another pre-tokenizer.
        self.tokenizer = transformers.TokenizersBackend.from_pretrained(str(folder))

    def with_template(self, template: str) -> Oracle:
        """The same tokenizer with another template."""
        other = copy(self)
        other._template = template
        return other

    def render(self, messages: list[dict[str, Any]], given: dict[str, Any]) -> str:
        """Gives the text of a conversation; raises whatever the template raises."""
        arguments = {"add_generation_prompt": True, **given}
        text = self.tokenizer.apply_chat_template(
            json.loads(json.dumps(messages)), tokenize=False, chat_template=self._template, **arguments
        )
        assert isinstance(text, str)
        return text

    def tokens(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Gives the tokens of a text."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return tokens


def compiled_by_transformers(template: str) -> jinja2.Template:
    """Gives a template as transformers itself would render it."""
    from transformers.utils.chat_template_utils import _compile_jinja_template  # noqa: PLC0415 - slow to load

    compiled: jinja2.Template = _compile_jinja_template(template)
    return compiled
