from __future__ import annotations

import pytest

from service.contract.assignments import parse_assignments, parse_revisions


def test_assignments_are_read_with_spaces_and_empty_parts() -> None:
    assert parse_assignments(" a=b , c = d=e,, ") == (("a", "b"), ("c", "d=e"))


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a=b,a=c"])
def test_an_invalid_assignment_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|twice"):
        parse_assignments(text)


def test_a_revision_is_that_of_the_default_model_or_of_those_named() -> None:
    assert parse_revisions(" v1 ") == (("", "v1"),)
    assert parse_revisions("org/a=v1,org/b=main") == (("org/a", "v1"), ("org/b", "main"))
    assert parse_revisions("") == ()
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse_revisions("v1,v2")
