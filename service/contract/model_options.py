"""The flags of engines by model, from the setting MODEL_OPTIONS. The fields have the names of vLLM's flags."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from service.contract.assignments import RENDERERS

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
CONTENT_FORMATS = ("auto", "string", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The options of one model. `chat_template` is a file, relative to MODELS_DIR, or the template itself."""

    chat_template: str | None = None
    chat_template_content_format: str = "auto"
    default_chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reasoning_effort_map: Mapping[str, str] = field(default_factory=dict)
    exclude_tools_when_tool_choice_none: bool = False
    tokenizer: str | None = None
    """Where the tokenizer is, as in MODEL_ALIASES."""
    revision: str | None = None
    """As in REVISION."""
    max_model_len: int | None = None
    renderer: str | None = None
    """As in RENDERERS."""


def parse_model_options(text: str) -> dict[str, ModelOptions]:
    """Reads a JSON object of objects by model. Raises ValueError that names the invalid part."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError('must be an object by model, such as {"org/model": {"chat_template": "own.jinja"}}')  # noqa: TRY004
    return {model: _options(model, given) for model, given in document.items()}


def check_model_options(text: str) -> str:
    """The setting's text, checked unless it is the path of a file, which may be readable only in the container."""
    text = text.strip()
    if text.startswith("{"):
        parse_model_options(text)
    elif text and not text.endswith(".json"):
        raise ValueError("must be a JSON object by model, or a path that ends in .json")
    return text


def read_model_options(text: str) -> dict[str, ModelOptions]:
    """The options of all models, from the setting's text or from the file that it names. Raises OSError, ValueError."""
    if not text:
        return {}
    return parse_model_options(text if text.startswith("{") else Path(text).read_text(encoding="utf-8-sig"))


def _options(model: str, given: Any) -> ModelOptions:
    if not isinstance(given, dict):
        raise ValueError(f"the options of {model} must be an object")  # noqa: TRY004
    known = [option.name for option in fields(ModelOptions)]
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{model}: {name!r} is not an option: there are {', '.join(known)}")
        if (expected := _expected(name, value)) is not None:
            raise ValueError(f"{model}: {name} must be {expected}")
    return ModelOptions(**given)


def _expected(name: str, value: Any) -> str | None:
    """The type that the value of an option must have; None if it has it."""
    is_valid, expected = _RULES.get(name, (lambda given: isinstance(given, str) and bool(given), "a text"))
    return None if is_valid(value) else expected


def _maps_efforts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) <= set(EFFORTS)
        and all(isinstance(effort, str) for effort in value.values())
    )


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "chat_template_content_format": (lambda value: value in CONTENT_FORMATS, f"one of {', '.join(CONTENT_FORMATS)}"),
    "renderer": (lambda value: value in RENDERERS, f"one of {', '.join(RENDERERS)}"),
    "default_chat_template_kwargs": (lambda value: isinstance(value, dict), "an object"),
    "reasoning_effort_map": (_maps_efforts, f"an object from {', '.join(EFFORTS)} to texts"),
    "exclude_tools_when_tool_choice_none": (lambda value: isinstance(value, bool), "true or false"),
    "max_model_len": (lambda value: type(value) is int and value > 0, "a whole number above 0"),
}
"""For each option that is not text: the check of a value, and the words for a valid one."""
