from __future__ import annotations

import pytest

from service.contract.discovery import SourceEntry, parse_discovery


def test_several_sources_are_separated_by_commas_which_paths_may_have_too() -> None:
    assert parse_discovery("") == ()
    text = "file:/pods,of/a.yaml,file:b?c.yaml"
    found = parse_discovery(f"{text},file:b?c.yaml")
    assert found == (SourceEntry("file", "/pods,of/a.yaml"), SourceEntry("file", "b?c.yaml"))
    assert ",".join(map(str, found)) == text


def test_files_of_a_source_are_replaced_where_a_container_has_them_elsewhere() -> None:
    (source,) = parse_discovery("file:/pods.yaml")
    assert source.files == ("/pods.yaml",)
    assert str(source.with_files({"/pods.yaml": "/run/files/pods.yaml"})) == "file:/run/files/pods.yaml"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/pods.yaml", "'/pods.yaml' must begin with one of file:"),
        ("file:", "'' must name a file"),
    ],
)
def test_an_invalid_source_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_discovery(text)
