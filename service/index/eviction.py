"""Eviction from the index itself: which blocks go when INDEX_MAX_BLOCKS is reached."""

from __future__ import annotations

from collections.abc import Iterable

from service.index.cache_groups import CacheGroup, RankState
from service.index.full_attention import FullAttention
from service.index.inexact_reasons import InexactReason


def evict_to_limit(cache: FullAttention, ranks: Iterable[RankState], max_blocks: int) -> int:
    """Evicts the oldest blocks, down to slightly below the limit so that it is not reached again at once.

    Returns the number of evicted blocks; their ranks are inexact.
    """
    wanted = max_blocks - min(1024, max_blocks >> 10)
    evicted = 0
    while cache.blocks > wanted:
        oldest = _oldest_group(group for state in ranks for group in state.groups if group.hashes)
        if oldest is None:
            break
        group, count = oldest
        evicted += cache.remove_oldest(group, min(count, cache.blocks - wanted))
        group.state.mark_inexact(InexactReason.EVICTED_HERE)
    return evicted


def _oldest_group(groups: Iterable[CacheGroup]) -> tuple[CacheGroup, int] | None:
    """The group with the oldest blocks, and the number of its blocks of that era (block_ages.py). O(groups)."""
    ages = {group: age for group in groups if (age := group.ages.oldest(sum(group.sizes)))}
    if not ages:
        return None
    group = min(ages, key=lambda group: ages[group][0])
    return group, ages[group][1]
