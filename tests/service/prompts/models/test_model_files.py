from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from service.prompts.errors import BadModelFile
from service.prompts.models.model_files import read_model_files
from tests.conftest import BUILTIN
from tests.service.prompts.oracle import Oracle

CONFIGURED = (
    None,
    "configured",
    [{"name": "default", "template": "listed"}, {"name": "tool_use", "template": "listed for tools"}],
    [{"name": "rag", "template": "listed"}],
    {"default": "mapped", "tool_use": "mapped for tools"},
)
NAMED: tuple[dict[str, str], ...] = ({}, {"tool_use": "named for tools"}, {"default": "named", "rag": "also named"})


def folder_with(tmp_path: Path, configured: Any, own: str | None, named: dict[str, str]) -> Path:
    (tmp_path / "tokenizer.json").symlink_to(BUILTIN / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": configured} if configured else {}))
    if own is not None:
        (tmp_path / "chat_template.jinja").write_text(own)
    for name, template in named.items():
        (tmp_path / "additional_chat_templates").mkdir(exist_ok=True)
        (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text(template)
    return tmp_path


@pytest.mark.parametrize(("configured", "own", "named"), list(itertools.product(CONFIGURED, (None, "own"), NAMED)))
def test_templates_are_those_that_transformers_takes(
    configured: Any, own: str | None, named: dict[str, str], tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, configured, own, named)
    taken = Oracle(folder).tokenizer.chat_template
    expected = {} if taken is None else {"default": taken} if isinstance(taken, str) else taken
    assert read_model_files(folder).templates == expected


@pytest.mark.parametrize("own", [None, "own"])
@pytest.mark.parametrize("legacy", [None, "legacy"])
@pytest.mark.parametrize("configured", [None, "of the processor"])
def test_the_template_of_a_processor_is_the_one_that_transformers_takes(
    tmp_path: Path, own: str | None, legacy: str | None, configured: str | None
) -> None:
    folder = folder_with(tmp_path, "of the tokenizer", own, {})
    if legacy is not None:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": legacy}))
    config = {"processor_class": "LlavaProcessor", **({"chat_template": configured} if configured else {})}
    (folder / "processor_config.json").write_text(json.dumps(config))
    from transformers import ProcessorMixin  # noqa: PLC0415 - slow to load

    taken = ProcessorMixin.get_processor_dict(folder)[0].get("chat_template")
    files = read_model_files(folder)
    # A processor without a template of its own takes that of its tokenizer.
    assert (files.processor_template or files.templates["default"]) == (taken or "of the tokenizer")


@pytest.mark.parametrize(
    ("configs", "counts"),
    [
        ({}, False),
        ({"config.json": {"model_type": "llama"}, "processor_config.json": {}}, False),
        ({"config.json": {"model_type": "llava"}}, False),
        ({"config.json": {"model_type": "llava"}, "preprocessor_config.json": {}}, True),
        ({"preprocessor_config.json": {"processor_class": "LlavaProcessor"}}, True),
        ({"processor_config.json": {"auto_map": {"AutoProcessor": "code.Processor"}}}, True),
    ],
)
def test_a_processors_template_counts_only_with_a_processor(
    tmp_path: Path, configs: dict[str, Any], counts: bool
) -> None:
    folder = folder_with(tmp_path, None, None, {})
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "the processor's"}))
    for name, config in configs.items():
        (folder / name).write_text(json.dumps(config))
    assert read_model_files(folder).templates == {}
    assert read_model_files(folder).processor_template == ("the processor's" if counts else None)


@pytest.mark.parametrize("configured", [[{"title": "x"}], [1], [{"name": 1, "template": "x"}], {"default": 1}])
def test_templates_that_are_none_are_refused_with_the_name_of_the_file(configured: Any, tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match=r"tokenizer_config\.json"):
        read_model_files(folder_with(tmp_path, configured, None, {}))


ODD_FIELDS = (
    *("model_type", "architectures", "tokenizer_class", "chat_template", "auto_map", "processor_class", "legacy"),
    *("added_tokens_decoder", "extra_special_tokens", "additional_special_tokens", "bos_token", "model_max_length"),
    *("add_prefix_space", "split_special_tokens"),
)
ODD_VALUES: list[Any] = [None, True, 5, "x", [], [[]], {}, {"a": []}]


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "processor_config.json", "special_tokens_map.json"]
)
def test_values_of_any_type_in_a_models_files_are_read_or_refused_with_the_name_of_the_file(
    file: str, tmp_path: Path
) -> None:
    (tmp_path / "processor_config.json").write_text("{}")
    for name in ODD_FIELDS:
        for value in ODD_VALUES:
            (tmp_path / file).write_text(json.dumps({name: value}))
            try:
                read_model_files(tmp_path, "org/model")
            except BadModelFile as error:
                assert error.path.parent == tmp_path


@pytest.mark.parametrize("max_bytes", [None, 1000])
@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json"]
)
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, file: str, max_bytes: int | None) -> None:
    for target in (tmp_path / file, tmp_path / "nowhere"):  # a loop, and a file that is missing
        (tmp_path / file).symlink_to(target)
        with pytest.raises(BadModelFile, match=file):
            read_model_files(tmp_path, max_bytes=max_bytes)
        (tmp_path / file).unlink()
