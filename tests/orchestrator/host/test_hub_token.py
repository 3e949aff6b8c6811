from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.host.hub_token import find_token


def test_the_variable_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    assert find_token({"HF_TOKEN": " of-the-variable ", "HF_HOME": str(tmp_path)}) == "of-the-variable"


@pytest.mark.parametrize("variable", ["HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_file_is_where_huggingface_hub_keeps_it(tmp_path: Path, variable: str) -> None:
    folder = tmp_path / "huggingface" if variable == "XDG_CACHE_HOME" else tmp_path
    folder.mkdir(exist_ok=True)
    path = folder / "token"
    path.write_text("of-the-file\n")
    named = {"HF_TOKEN_PATH": path, "HF_HOME": tmp_path, "XDG_CACHE_HOME": tmp_path}[variable]

    assert find_token({variable: str(named)}) == "of-the-file"
    assert find_token({variable: str(named), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}) is None


def test_there_may_be_none(tmp_path: Path) -> None:
    assert find_token({"HF_HOME": str(tmp_path)}) is None
    (tmp_path / "token").write_text("\n")
    assert find_token({"HF_HOME": str(tmp_path), "HF_TOKEN": ""}) is None
