from __future__ import annotations

from service.byte_lru import ByteLru


def sized(capacity: int, evicted: list[int]) -> ByteLru[str, int]:
    """Values whose size is their value."""
    return ByteLru(capacity, lambda _, value: value, evicted.append)


def test_the_least_recently_used_value_is_evicted() -> None:
    evicted: list[int] = []
    cache = sized(10, evicted)
    for key, value in (("a", 3), ("b", 4), ("c", 2)):
        assert cache.put(key, value)
    cache.touch("a")
    assert cache.get("b") == 4
    assert cache.put("d", 5)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.get("d")) == (3, None, 2, 5)
    assert (evicted, cache.size_bytes, len(cache)) == ([4], 10, 3)


def test_a_value_replaces_another_under_its_key() -> None:
    evicted: list[int] = []
    cache = sized(10, evicted)
    cache.put("a", 3)
    cache.put("a", 6)
    assert (cache.get("a"), cache.size_bytes, evicted) == (6, 6, [3])
    cache.discard("a")
    cache.discard("a")
    assert (cache.get("a"), cache.size_bytes, evicted) == (None, 0, [3, 6])


def test_a_value_larger_than_the_capacity_is_not_stored_and_evicts_nothing() -> None:
    evicted: list[int] = []
    cache = sized(10, evicted)
    cache.put("a", 3)
    assert not cache.put("b", 11)
    assert (cache.get("a"), cache.get("b"), cache.size_bytes, evicted) == (3, None, 3, [])


def test_a_value_that_grows_evicts_others() -> None:
    evicted: list[int] = []
    cache = sized(10, evicted)
    cache.put("a", 3)
    cache.put("b", 5)
    cache.grow(4)
    assert (cache.get("a"), cache.get("b"), evicted) == (None, 5, [3])
