"""The ordinary batch of events, without an object for each: one store of new blocks, or one removal."""

from __future__ import annotations

from collections.abc import Callable

from service.index.base import Tier
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

    __slots__ = ("_admit", "_block_size", "_cache", "_group", "_state", "_statistics", "_write")

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
        self._block_size = group.block_size
        self._cache = cache
        self._statistics = statistics
        self._admit = admit
        self._write = GroupWriter(
            cache.masks[_GPU],
            group.hashes,
            bit=group.bit,
            root=root,
            block_size=group.block_size,
            group=group.index,
            rank=rank.number,
        ).apply

    @property
    def stands(self) -> bool:
        """Whether the rank's blocks are still in this group alone."""
        state, group = self._state, self._group
        return (
            state.is_ordinary
            and len(state.groups) == 1
            and state.groups[0] is group
            and group.block_size == self._block_size
            and not state.placements
        )

    def apply(self, payload: bytes, since: float) -> float | None:
        """Applies a batch, and gives its date (Unix seconds); None, without any effect, for one to be decoded.

        That is also one dated before `since`, or of another rank.
        """
        if not self.stands:
            return None
        state, group, cache = self._state, self._group, self._cache
        sizes = group.sizes
        # A removal tells something, or leaves something, where blocks are held more than once.
        removes = not (group.extra_copies or group.alias_counts or state.has_doubts or sizes[_CPU] or sizes[_STORAGE])
        written = self._write(payload, since, removes)
        if written is None:
            return None
        date, added, removed, unknown, may_be_report = written
        if added:
            sizes[_GPU] += added
            cache.blocks += added
            if may_be_report:  # of reuse, were its blocks not new
                state.last_was_reuse_report = False
            self._admit(group, added)
        else:
            sizes[_GPU] -= removed
            cache.blocks -= removed
            self._statistics.evictions += removed
            self._statistics.unknown_blocks += unknown
        return date


def plain_group(
    state: RankState,
    cache: FullAttention,
    statistics: IndexStatistics,
    admit: Callable[[CacheGroup, int], None],
) -> PlainGroup | None:
    """The only group of a rank, if it is plain, and its first stores need not be remembered (offloading.py)."""
    if not state.is_ordinary or not state.groups or state.first_stores is not None:
        return None
    group = state.groups[0]
    return PlainGroup(state, group, cache, statistics, admit) if group.stride == 1 and not group.lookahead else None
