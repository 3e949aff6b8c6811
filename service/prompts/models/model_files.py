"""The files of a model that decide its prompts, read from one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.prompts.tokens.special_tokens import SpecialTokens

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
PROCESSOR_TEMPLATE = "chat_template.json"
NAMED_TEMPLATES = "additional_chat_templates"

FILE_PATTERNS = (TOKENIZER, CONFIG, SPECIAL_TOKENS, TEMPLATE, PROCESSOR_TEMPLATE, f"{NAMED_TEMPLATES}/*.jinja")
"""All that is ever fetched: no weights."""


class BadModelFile(Exception):
    """A file of the model cannot be read; the text says which and why."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a folder says about a model."""

    folder: Path
    config: Mapping[str, Any]
    special_tokens: SpecialTokens
    templates: Mapping[str, str]
    """Chat templates by name; the unnamed one is "default"."""

    @property
    def tokenizer(self) -> Path:
        """Where tokenizer.json is."""
        return self.folder / TOKENIZER

    @property
    def max_length(self) -> int | None:
        """The tokens that the model takes, or None where the configuration has only a number that stands for none."""
        length = self.config.get("model_max_length")
        return int(length) if isinstance(length, (int, float)) and 0 < length < 1e9 else None


def read_model_files(folder: Path) -> ModelFiles:
    """Reads what is there; raises BadModelFile for what is there and cannot be read. Blocks on the disk."""
    config = _read_object(folder / CONFIG)
    legacy = _read_object(folder / SPECIAL_TOKENS)
    try:
        special_tokens = SpecialTokens(config, legacy)
    except (AttributeError, TypeError, ValueError) as error:
        raise BadModelFile(folder / CONFIG, f"its special tokens are none ({error})") from None
    return ModelFiles(folder, config, special_tokens, _read_templates(folder, config))


def _read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Template files, if there are any, else those in the configuration (`_from_pretrained`, transformers 5.23)."""
    templates = {"default": _read_text(folder / TEMPLATE)} if (folder / TEMPLATE).is_file() else {}
    templates |= {path.stem: _read_text(path) for path in sorted((folder / NAMED_TEMPLATES).glob("*.jinja"))}
    if templates:
        return templates
    for path, values in (
        (folder / CONFIG, config),
        (folder / PROCESSOR_TEMPLATE, _read_object(folder / PROCESSOR_TEMPLATE)),
    ):
        match values.get("chat_template"):
            case str(source):
                return {"default": source}
            case dict() | list() as named:
                return _named_templates(path, named)
    return {}


def _named_templates(path: Path, named: dict[str, Any] | list[Any]) -> dict[str, str]:
    try:
        templates = named if isinstance(named, dict) else {one["name"]: one["template"] for one in named}
    except (TypeError, KeyError):
        templates = {"": None}
    if not all(isinstance(part, str) for template in templates.items() for part in template):
        raise BadModelFile(path, "its chat_template is no list of names and templates")
    return templates


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadModelFile(path, f"it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise BadModelFile(path, "it holds no JSON object")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadModelFile(path, error) from None
