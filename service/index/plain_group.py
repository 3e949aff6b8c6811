"""The ordinary batch of events, without an object for each: stores of new blocks, and removals."""

from __future__ import annotations

from collections.abc import Callable

from service.index.base import PackedBatches, Tier
from service.index.cache_groups import CacheGroup, RankState
from service.index.full_attention import FullAttention
from service.index.keys import root_key
from service.index.statistics import IndexStatistics
from service.native.backend import GroupWriter

_GPU, _CPU, _STORAGE = Tier.GPU, Tier.CPU, Tier.STORAGE


class PlainGroup:
    """The only KV-cache group of a rank: full attention on the device, with one key per block.

    Applies those batches about which Index.store and Index.remove would have nothing to learn or to decide, with the
    same effect. `admit` is called with the group and the number of its new blocks.
    """

    __slots__ = ("_admit", "_cache", "_group", "_state", "_statistics", "_writer")

    def __init__(
        self,
        state: RankState,
        group: CacheGroup,
        cache: FullAttention,
        statistics: IndexStatistics,
        admit: Callable[[CacheGroup, int], None],
    ) -> None:
        rank = group.rank
        root = root_key(rank.model, None, group.layout.unit)
        self._state = state
        self._group = group
        self._cache = cache
        self._statistics = statistics
        self._admit = admit
        self._writer = GroupWriter(
            cache.masks[_GPU],
            group.hashes,
            bit=group.bit,
            root=root,
            block_size=group.block_size,
            group=group.index,
            rank=rank.number,
            extra_copies=group.extra_copies,
            ambiguous_copies=group.ambiguous_copies,
        )

    def open(self, finish: Callable[[bytes, int], None]) -> Callable[[bytes, float], float | None]:
        group, state, sizes = self._group, self._state, self._group.sizes
        self._writer.open(
            finish,
            # A removal leaves something where a block is held under two hashes or on two tiers.
            removes=not (group.alias_counts or sizes[_CPU] or sizes[_STORAGE] or state.removes_last_copy_only),
            half_removed=state.half_removed,
        )
        return self._writer.apply

    def settle(self) -> int:
        events, added, removed, unknown = self._writer.take()
        group, cache, statistics = self._group, self._cache, self._statistics
        group.sizes[_GPU] += added - removed
        cache.blocks += added - removed
        statistics.evictions += removed
        statistics.unknown_blocks += unknown
        if added:
            self._state.last_was_reuse_report = False
            self._admit(group, added)
        return events


def plain_group(
    state: RankState,
    cache: FullAttention,
    statistics: IndexStatistics,
    admit: Callable[[CacheGroup, int], None],
) -> PackedBatches | None:
    """The only group of a rank, if it is plain, and its first stores need not be remembered (offloading.py)."""
    if not state.is_ordinary or len(state.groups) != 1 or state.first_stores is not None or state.placements:
        return None
    group = state.groups[0]
    if group.plain is None and group.stride == 1 and not group.lookahead:
        group.plain = PlainGroup(state, group, cache, statistics, admit)
    return group.plain
