"""Copies of blocks: what they tell of an engine, and whether it announces the removal of every copy or of the last."""

from __future__ import annotations

from service.index.base import BlockHash, Stored, Tier
from service.index.cache_groups import CacheGroup
from service.index.full_attention import FullAttention
from service.index.inexact_reasons import InexactReason
from service.index.reuse_reports import recomputed

_MAX_HALF_REMOVED = 4096
_RESTORES_THAT_PROVE = 16
_LAST_BLOCKS_THAT_PROVE = 2
"""One may also come from a prompt that was computed while another one stored the same block."""


def note_copies(group: CacheGroup, stored: Stored) -> None:
    """Learns from stores of blocks that are held already."""
    state = group.state
    if stored.group is None and not stored.counts_copies:
        state.mark_inexact(InexactReason.SAME_HASH)
    if _drops_last_block(group, stored):
        state.recomputed_last_blocks += 1
        if state.recomputed_last_blocks >= _LAST_BLOCKS_THAT_PROVE:
            state.mark_inexact(InexactReason.LAST_BLOCK)
    if state.sends_reuse_reports:
        recomputed(group, list(stored.hashes[:-1]))
    if state.half_removed and not state.removes_each_copy:
        again = state.half_removed.intersection(stored.hashes[:-1])
        state.restored_after_removal += len(again)
        state.half_removed -= again
        if state.restored_after_removal >= _RESTORES_THAT_PROVE:
            state.removes_last_copy_only = True
            state.mark_inexact(InexactReason.LATE_REMOVALS)


def _drops_last_block(group: CacheGroup, stored: Stored) -> bool:
    """Whether a prompt that goes on behind held blocks computed the last of them again, and no other.

    EAGLE without lookahead hashing reuses one block less than is held. A prompt that is not longer than what is held
    computes its last block in any case. Requests without reuse compute all blocks from the first on, so that the block
    before has a copy, too.
    """
    if stored.parent is None or len(stored.hashes) < 2 or not group.state.is_ordinary or group.below_device:
        return False
    first, second = stored.hashes[:2]
    copied = [(block_hash, Tier.GPU) in group.extra_copies for block_hash in (stored.parent, first, second)]
    return copied == [False, True, False]


def remove_copy(cache: FullAttention, group: CacheGroup, tier: Tier, block_hash: BlockHash, left: int | None) -> bool:
    """Removes a copy of a block, and learns from it; `left` is the number of remaining copies, if known.

    False if the group holds none on that tier.
    """
    state = group.state
    state.placements.pop(block_hash, None)
    if left is not None:
        return _remove_all_but(cache, group, tier, block_hash, left)
    if state.removes_last_copy_only:
        group.extra_copies.pop((block_hash, tier), None)
    elif (block_hash, tier) in group.extra_copies:
        if len(state.half_removed) < _MAX_HALF_REMOVED:
            state.half_removed.add(block_hash)
    elif block_hash in state.half_removed:
        state.removes_each_copy = True
        state.half_removed.clear()
    else:
        group.ambiguous_copies.pop(block_hash, None)
    return cache.remove(group, tier, block_hash)


def _remove_all_but(cache: FullAttention, group: CacheGroup, tier: Tier, block_hash: BlockHash, left: int) -> bool:
    group.extra_copies.pop((block_hash, tier), None)
    if not left:
        return cache.remove_last_copy(group, tier, block_hash)
    if left > 1:
        group.extra_copies[block_hash, tier] = left - 1
    return True
