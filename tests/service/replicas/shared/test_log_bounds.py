from __future__ import annotations

from service.replicas.shared.log_bounds import LOG_BYTES, LOG_ENTRIES, LogBounds


def test_small_entries_are_bounded_by_their_number() -> None:
    bounds = LogBounds(60.0)
    assert [bounds.appended("a", 10) for _ in range(3)] == [1, 2, 3]
    for _ in range(LOG_ENTRIES):
        kept = bounds.appended("a", 10)
    assert kept == LOG_ENTRIES


def test_large_entries_are_bounded_by_their_bytes_and_the_newest_one_is_kept() -> None:
    bounds = LogBounds(60.0)
    kept = [bounds.appended("a", LOG_BYTES // 4) for _ in range(6)]
    assert kept == [1, 2, 3, 4, 4, 4]
    assert bounds.appended("a", 2 * LOG_BYTES) == 1
    assert bounds.appended("b", 10) == 1


def test_a_log_that_is_not_written_any_more_is_forgotten() -> None:
    now = 0.0
    bounds = LogBounds(60.0, lambda: now)
    bounds.appended("a", 10)
    now = 61.0
    bounds.appended("b", 10)
    assert bounds.appended("a", 10) == 1
