from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_shape import JsonShape, count_values

TEXT = st.text(st.sampled_from('\\"[]{},:aé\u2028'), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=30,
)


def counted(value: Any) -> tuple[int, int, int]:
    """Containers, members and following values of a decoded value."""
    if not isinstance(value, dict | list):
        return 0, 0, 0
    inner = [counted(one) for one in (value.values() if isinstance(value, dict) else value)]
    containers, members, values = (sum(numbers) for numbers in zip(*inner, strict=True)) if inner else (0, 0, 0)
    return containers + 1, members + (len(value) if isinstance(value, dict) else 0), values + max(0, len(value) - 1)


@given(JSON, st.integers(1, 40), st.booleans())
def test_values_are_counted_whatever_the_text_of_strings_and_the_size_of_slices(
    value: Any, slice_bytes: int, ascii_only: bool
) -> None:
    *_, shape = count_values(json.dumps(value, ensure_ascii=ascii_only).encode(), slice_bytes)
    assert (shape.containers, shape.members, shape.values) == counted(value)


@pytest.mark.parametrize("body", [b"\\" * 1000, b'"' * 999, b'{"a', b"]]]", b'"\\'])
def test_invalid_json_is_counted_without_an_error(body: bytes) -> None:
    assert list(count_values(body, 7))


def test_memory_is_estimated_from_all_counts() -> None:
    assert JsonShape(1, 2, 3).memory > JsonShape(1, 2, 0).memory > JsonShape(1).memory > JsonShape().memory == 0
