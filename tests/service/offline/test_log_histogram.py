from __future__ import annotations

import pytest

from service.offline.log_histogram import LogHistogram


def test_a_quantile_is_never_too_low_and_at_most_a_tenth_too_high() -> None:
    times = LogHistogram()
    for milliseconds in range(1, 100_001):
        times.add(milliseconds / 1000)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99, 1.0):
        quantile = times.quantile(share)
        assert quantile is not None
        assert 100 * share <= quantile * 1.0000001 <= 100 * share * 1.11
    assert times.mean == pytest.approx(50.0005)


def test_an_empty_histogram_has_no_quantile_and_no_mean() -> None:
    assert LogHistogram().quantile(0.5) is None
    assert LogHistogram().mean is None


def test_durations_out_of_range_count_in_the_first_and_last_bucket() -> None:
    times = LogHistogram()
    times.add(0.0)
    times.add(1e12)
    assert times.quantile(0.5) == pytest.approx(0.001)
    assert times.quantile(1.0) == pytest.approx(1e7)
    assert sum(count for _, count in times.histogram()) == 2
