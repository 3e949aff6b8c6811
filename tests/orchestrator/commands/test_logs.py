from __future__ import annotations

import time

import pytest

from orchestrator.commands.logs import parse_moment
from orchestrator.errors import UsageError


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("0.5s", 0.5)])
def test_a_time_may_be_so_long_ago(text: str, ago: float) -> None:
    assert parse_moment(text) == pytest.approx(time.time() - ago, abs=5)


@pytest.mark.parametrize("text", ["2025-01-31T12:00:00Z", "2025-01-31T13:00:00+01:00", "1738324800"])
def test_a_time_may_be_a_date_or_seconds(text: str) -> None:
    assert parse_moment(text) == 1738324800


@pytest.mark.parametrize("text", ["", "yesterday", "10 minutes", "m"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        parse_moment(text)
