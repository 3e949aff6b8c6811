"""Resets of caches: which blocks an `AllBlocksCleared` takes away, and which stay in doubt.

In vLLM 0.33 the event comes from a block pool: the device's, or that of SimpleCPUOffloadConnector, whose stores name a
locality. OffloadingConnector's tier is emptied by `reset_prefix_cache(reset_connector=True)` without any event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from service.index.base import BlockHash, Stored, Tier
from service.index.cache_groups import CacheGroup, RankState
from service.index.full_attention import FullAttention
from service.index.inexact_reasons import InexactReason
from service.index.reset_doubt import Place, ResetDoubt

_GPU = Tier.GPU
_LOWER = (Tier.CPU, Tier.STORAGE)


def reset(cache: FullAttention, state: RankState, pool: Tier | None) -> None:
    """Applies `AllBlocksCleared` to a rank with blocks below the device; `pool` as in Index.engine_cleared."""
    is_pool = state.lower_tier_is_pool
    if is_pool and pool is not None and pool is not _GPU:
        for group in state.groups:
            empty(cache, group, _LOWER)
        return
    for group in state.groups:
        empty(cache, group, (_GPU,))
    if is_pool is None:
        state.mark_inexact(InexactReason.CLEARED_TIER)
    elif not is_pool or pool is None:
        if state.reset_doubt is None:
            state.reset_doubt = ResetDoubt()
        state.reset_doubt.note_reset(_below_device(cache, state.groups))


def note_store(cache: FullAttention, state: RankState, stored: Stored) -> None:
    """Learns from a store below the device, before it is applied."""
    if stored.group is not None:
        state.lower_tier_is_pool = stored.is_pool
    if not stored.hashes:
        return
    if state.reset_doubt is None:
        _note_silent_reset(cache, state, stored)
        return
    for group in state.of_group(stored.group):
        for place, old in state.reset_doubt.stored(group.bit, stored):
            holder = cache.groups[place.bit.bit_length() - 1]
            if holder is not None and holder.state is state:
                _take(cache, holder, place.block_hash, old.copies)


def _note_silent_reset(cache: FullAttention, state: RankState, stored: Stored) -> None:
    """Marks a rank whose connector stores a chunk that it should hold: `reset_connector_cache` announces nothing."""
    if stored.is_pool or stored.group is None:
        return
    last, tier = stored.hashes[-1], stored.tier
    for group in state.of_group(stored.group):
        key = group.hashes.get(last)
        if key is not None and cache.masks[tier].get(key) & group.bit:
            state.mark_inexact(InexactReason.CLEARED_TIER)
            _take(cache, group, last, {tier: 1})


def is_in_doubt(state: RankState) -> bool:
    """Whether blocks may be gone since a reset; to be called between batches."""
    if state.reset_doubt is not None and state.reset_doubt.settle():
        state.reset_doubt = None
    return state.reset_doubt is not None


def _below_device(cache: FullAttention, groups: Sequence[CacheGroup]) -> Iterator[tuple[Place, Mapping[Tier, int]]]:
    for group in groups:
        if not group.below_device:
            continue
        for block_hash, key in group.hashes.items():
            copies = {
                tier: 1 + group.extra_copies.get((block_hash, tier), 0)
                for tier in _LOWER
                if cache.masks[tier].get(key) & group.bit
            }
            if copies:
                yield Place(group.bit, block_hash), copies


def _take(cache: FullAttention, group: CacheGroup, block_hash: BlockHash, copies: Mapping[Tier, int]) -> None:
    for tier, count in copies.items():
        for _ in range(count):
            cache.remove(group, tier, block_hash)


def empty(cache: FullAttention, group: CacheGroup, tiers: Sequence[Tier]) -> None:
    """Takes all blocks of a group from some tiers. O(blocks)."""
    for block_hash in [block_hash for block_hash, _ in group.hashes.items()]:
        for tier in tiers:
            group.extra_copies.pop((block_hash, tier), None)
            if block_hash in group.hashes:
                cache.remove_last_copy(group, tier, block_hash)
