from __future__ import annotations

import pytest

from service.contract.units import parse_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        (" 30 s ", 30.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("5M", 300.0),
        ("1h30m", 5400.0),
        ("2d", 172_800.0),
        ("0.5", 0.5),
    ],
)
def test_a_time_is_a_number_with_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "m", "5 days", "1h30", "1e3", "inf", "nan", "9" * 400, "٣s"])
def test_a_wrong_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time above zero, such as 30"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1073741824", 1 << 30),
        ("512m", 512 << 20),
        ("2g", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("64KB", 64 << 10),
        ("1 gb", 1 << 30),
        ("1T", 1 << 40),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1g", "1x", "g", "5i", "0", "0.0001"])
def test_a_wrong_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size of 1 B or more, such as"):
        parse_size(text)


def test_the_smallest_size_can_be_given() -> None:
    assert parse_size("0", low=0) == 0
    with pytest.raises(ValueError, match=r"of 6\.0 MiB or more"):
        parse_size("1k", low=6 << 20)
