"""Eviction from the index itself: which group's oldest blocks go when INDEX_MAX_BLOCKS is reached."""

from __future__ import annotations

from collections.abc import Iterable

from service.index.cache_groups import CacheGroup


def oldest_group(groups: Iterable[CacheGroup]) -> tuple[CacheGroup, int] | None:
    """The group that holds the oldest blocks, and how many of its blocks are of that era. O(groups)."""
    ages = {group: age for group in groups if (age := group.ages.oldest(sum(group.sizes)))}
    if not ages:
        return None
    group = min(ages, key=lambda group: ages[group][0])
    return group, ages[group][1]
