from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.soak.windows import Window, drifts

STEADY = [Window.of(10.0 * number, 80_000_000, 60, [0.002, 0.003, 0.05], 97, cpu=0.2) for number in range(1, 9)]


def test_a_steady_service_does_not_drift_and_a_burst_is_no_drift() -> None:
    assert drifts(STEADY) == []
    assert drifts([*STEADY[:-1], replace(STEADY[-1], memory_mb=100.0, p50_ms=90.0)]) == []


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ({"memory_mb": 200.0}, "memory grew from 80 to 200 MB"),
        ({"descriptors": 200}, "descriptors grew from 60 to 200"),
        ({"cpu_ms": 6.0}, "the CPU time of a score or batch grew from 2.00 to 6.00 ms"),
    ],
)
def test_growth_from_the_second_quarter_to_the_last_is_drift(grown: dict[str, float], said: str) -> None:
    windows = [*STEADY[:6], *(replace(window, **grown) for window in STEADY[6:])]  # type: ignore[arg-type]
    assert drifts(windows) == [said]
