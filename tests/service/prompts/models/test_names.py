from __future__ import annotations

from pathlib import Path

import pytest

from service.prompts.models.names import ModelNames, Source, has_tokenizer, is_hub_name, is_relative


@pytest.fixture
def dir_(tmp_path: Path) -> Path:
    for name in ("org/model", "plain", "empty-of-tokenizers"):
        (tmp_path / "models" / name).mkdir(parents=True)
        file = "readme" if name.startswith("empty") else "tokenizer.json"
        (tmp_path / "models" / name / file).write_text("{}")
    return tmp_path / "models"


def source(dir_: Path, name: str, root: str | None = None, **aliases: str) -> Source:
    return ModelNames(dir_, aliases, lambda _: root).source(name)


def test_the_operators_alias_comes_first(dir_: Path) -> None:
    assert source(dir_, "plain", "org/other", plain="org/model") == Source("org/model", dir_ / "org/model")
    assert source(dir_, "x", "org/model", x="org/on-the-hub") == Source("org/on-the-hub")
    assert source(dir_, "x", None, x=f"{dir_}/plain") == Source(f"{dir_}/plain", dir_ / "plain")


def test_files_of_that_name_come_before_the_engines_root(dir_: Path) -> None:
    assert source(dir_, "plain", "org/other") == Source("plain", dir_ / "plain")


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("org/model", "org/model"),
        ("/mnt/models/org/model", "org/model"),
        ("/mnt/plain", "plain"),
        ("/data/plain/", "plain"),
        ("/root/.cache/huggingface/hub/models--org--model/snapshots/0123abc", "org/model"),
    ],
)
def test_a_root_finds_files_in_models_dir(dir_: Path, root: str, expected: str) -> None:
    assert source(dir_, "alias", root) == Source(expected, dir_ / expected)


def test_a_root_may_be_a_name_of_the_hub_or_a_folder_of_this_machine(dir_: Path, tmp_path: Path) -> None:
    assert source(dir_, "alias", "org/elsewhere") == Source("org/elsewhere")
    snapshot = "/hub/models--org--elsewhere/snapshots/1"
    assert source(dir_, "alias", snapshot) == Source("org/elsewhere")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tokenizer.json").write_text("{}")
    assert source(dir_, "alias", str(tmp_path / "here")).folder == tmp_path / "here"


@pytest.mark.parametrize("root", [None, "", "/mnt/models", "a/b/c", "/\0", "x" * 5000, "alias"])
def test_a_root_that_leads_nowhere_leaves_the_name(dir_: Path, root: str | None) -> None:
    assert source(dir_, "alias", root) == Source("alias")


@pytest.mark.parametrize(
    "name", ["a-", "a.", "-a", ".a", "a--b", "a..b", "x.git", "a/b/c", "x:latest", "", "/mnt", "é"]
)
def test_names_that_the_hub_refuses(name: str) -> None:
    assert not is_hub_name(name)


@pytest.mark.parametrize("name", ["gpt2", "org/model", "Qwen/Qwen3-0.6B", "a_b/c.d-e", "_x"])
def test_names_that_the_hub_takes(name: str) -> None:
    assert is_hub_name(name)


@pytest.mark.parametrize("name", ["/abs", "../up", "a/../b", "a//b", "", ".", "a/", "a\0b"])
def test_a_name_cannot_leave_models_dir(dir_: Path, name: str) -> None:
    assert not is_relative(name)
    assert ModelNames(dir_).folder(name) is None


def test_a_folder_of_other_files_is_known_to_have_no_tokenizer(dir_: Path) -> None:
    assert source(dir_, "empty-of-tokenizers").folder == dir_ / "empty-of-tokenizers"
    assert not has_tokenizer(dir_ / "empty-of-tokenizers")
