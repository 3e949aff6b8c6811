"""The files of a model that determine its prompts, read from one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from service.prompts.errors import BadModelFile
from service.prompts.models.file_names import (
    CONFIG,
    FILE_PATTERNS,
    MODEL_CONFIG,
    NAMED_TEMPLATES,
    PROCESSOR_CONFIG,
    PROCESSOR_CONFIGS,
    PROCESSOR_TEMPLATE,
    SPECIAL_TOKENS,
    TEMPLATE,
    TOKENIZER,
    TOKENIZERS,
)
from service.prompts.renderers.choice import RendererChoice, choose_renderer
from service.prompts.tokens.special_tokens import SpecialTokens
from service.prompts.tokens.tokenizer_class import default_tokens, has_processor, tokenizer_class


class ModelFiles(msgspec.Struct, frozen=True):
    folder: Path
    config: Mapping[str, Any]
    """tokenizer_config.json."""
    tokenizer_class: str
    """The class that AutoTokenizer loads."""
    renderer: RendererChoice
    special_tokens: SpecialTokens
    templates: Mapping[str, str]
    """Chat templates by name; the unnamed one is "default"."""
    processor_template: str | None
    """The template of the model's processor, if it has one of its own."""

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / TOKENIZER

    @property
    def config_file(self) -> Path:
        return self.folder / CONFIG

    @property
    def max_length(self) -> int | None:
        """The model's maximum number of tokens; None if the configuration only has a placeholder."""
        length = self.config.get("model_max_length")
        return int(length) if isinstance(length, (int, float)) and 0 < length < 1e9 else None


def read_model_files(
    folder: Path, name: str = "", renderer: str | None = None, *, max_bytes: int | None = None
) -> ModelFiles:
    """Reads the files of a model that exist; raises BadModelFile for an unreadable one. Blocks.

    `renderer` is the operator's choice, if any; `max_bytes` bounds all files but the tokenizer.
    """
    if max_bytes is not None:
        _check_sizes(folder, max_bytes)
    config = _read_object(folder / CONFIG)
    model_config = _read_object(folder / MODEL_CONFIG)
    class_name = tokenizer_class(name, model_config, config)
    legacy = _read_object(folder / SPECIAL_TOKENS)
    try:
        special_tokens = SpecialTokens({**default_tokens(class_name), **config}, legacy)
    except (AttributeError, TypeError, ValueError) as error:
        raise BadModelFile(folder / CONFIG, f"its special tokens cannot be used ({error})") from None
    templates = _read_templates(folder, config)
    return ModelFiles(
        folder,
        config,
        class_name,
        choose_renderer(folder, model_config, renderer),
        special_tokens,
        templates,
        _processor_template(folder, config, model_config),
    )


def files_state(folder: Path, *others: Path) -> tuple[object, ...]:
    """A value that changes with the files of a model in its folder, and with others of the operator."""
    files = [*sorted({path for pattern in FILE_PATTERNS for path in folder.glob(pattern)}), *others]
    return folder, tuple((path.name, *_version(path)) for path in files)


def _version(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check_sizes(folder: Path, max_bytes: int) -> None:
    left = max_bytes
    for pattern in FILE_PATTERNS:
        for path in folder.glob(pattern) if pattern not in TOKENIZERS else ():
            try:
                left -= path.stat().st_size
            except OSError as error:
                raise BadModelFile(path, error) from None
            if left < 0:
                raise BadModelFile(path, f"the files beside the tokenizer have more than {max_bytes} bytes")


def _read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Template files if there are any, else those in the configuration (`_from_pretrained`, transformers 5.19)."""
    templates = {"default": _read_text(folder / TEMPLATE)} if _is_there(folder / TEMPLATE) else {}
    templates |= {path.stem: _read_text(path) for path in sorted((folder / NAMED_TEMPLATES).glob("*.jinja"))}
    if templates:
        return templates
    match config.get("chat_template"):
        case str(source):
            return {"default": source}
        case dict() | list() as named:
            return _named_templates(folder / CONFIG, named)
    return {}


def _processor_template(folder: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]) -> str | None:
    """The template of the model's processor, if it has one that may differ from chat_template.jinja.

    Follows `AutoProcessor.from_pretrained` and `ProcessorMixin.get_processor_dict`, transformers 5.19.
    """
    configs = {name: _read_object(folder / name) for name in PROCESSOR_CONFIGS if _is_there(folder / name)}
    if not configs or not has_processor(model_config, config, *configs.values()):
        return None
    template = configs.get(PROCESSOR_CONFIG, {}).get("chat_template")
    if template is None:
        template = _read_object(folder / PROCESSOR_TEMPLATE).get("chat_template")
        if template is not None and (folder / NAMED_TEMPLATES).is_dir():
            return None  # such a processor cannot be loaded
    return template if isinstance(template, str) else None


def _named_templates(path: Path, named: dict[str, Any] | list[Any]) -> dict[str, str]:
    try:
        templates = named if isinstance(named, dict) else {one["name"]: one["template"] for one in named}
    except (TypeError, KeyError):
        templates = {"": None}
    if not all(isinstance(part, str) for template in templates.items() for part in template):
        raise BadModelFile(path, "its chat_template is no list of names and templates")
    return templates


def _is_there(path: Path) -> bool:
    """Whether a file exists. Raises BadModelFile for a link that leads nowhere, as in a folder copied in part."""
    if path.is_symlink() and not path.exists():
        raise BadModelFile(path, "it is a link that leads nowhere")
    return path.is_file()


def _read_object(path: Path) -> dict[str, Any]:
    if not _is_there(path):
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
        return path.read_text(encoding="utf-8-sig")  # strip the byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadModelFile(path, error) from None
