from __future__ import annotations

from pathlib import Path

import pytest

from service.contract.secret_environment import VARIABLE, dump, load


def test_variables_are_read_from_the_file_that_the_environment_names(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text(dump({"HTTPS_PROXY": "http://me:secret@proxy"}))
    assert load({VARIABLE: str(file)}) == {"HTTPS_PROXY": "http://me:secret@proxy"}
    assert load({}) == {}


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        load({VARIABLE: str(tmp_path / "none")})
