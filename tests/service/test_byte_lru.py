from __future__ import annotations

from service.byte_lru import RecentlyUsed


def sized(capacity: int, gone: list[int]) -> RecentlyUsed[str, int]:
    """Values that take as many bytes as they say."""
    return RecentlyUsed(capacity, lambda _, value: value, gone.append)


def test_what_was_not_used_for_longest_is_let_go() -> None:
    gone: list[int] = []
    kept = sized(10, gone)
    for key, value in (("a", 3), ("b", 4), ("c", 2)):
        assert kept.put(key, value)
    kept.use("a")
    assert kept.get("b") == 4
    assert kept.put("d", 5)
    assert (kept.get("a"), kept.get("b"), kept.get("c"), kept.get("d")) == (3, None, 2, 5)
    assert (gone, kept.used, kept.written, len(kept)) == ([4], 10, 14, 3)


def test_a_value_takes_the_place_of_another_under_its_key() -> None:
    gone: list[int] = []
    kept = sized(10, gone)
    kept.put("a", 3)
    kept.put("a", 6)
    assert (kept.get("a"), kept.used, gone) == (6, 6, [3])
    kept.let_go("a")
    kept.let_go("a")
    assert (kept.get("a"), kept.used, gone) == (None, 0, [3, 6])


def test_what_is_too_large_is_not_kept_and_drives_nothing_out() -> None:
    gone: list[int] = []
    kept = sized(10, gone)
    kept.put("a", 3)
    assert not kept.put("b", 11)
    assert (kept.get("a"), kept.get("b"), kept.used, gone) == (3, None, 3, [])
