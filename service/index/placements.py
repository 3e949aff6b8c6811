"""Blocks of windows that may be one block further left, and the events that tell where they are."""

from __future__ import annotations

from collections.abc import Sequence

from service.index.base import BlockHash, BlockKey, Stored, Tier
from service.index.cache_groups import CacheGroup, Placement, RankState
from service.index.full_attention import FullAttention
from service.index.inexact_reasons import InexactReason
from service.index.windows import place
from service.native.backend import as_key_vector

_GPU = Tier.GPU


def some_keys(
    cache: FullAttention, group: CacheGroup, stored: Stored, keys: Sequence[BlockKey]
) -> Sequence[BlockKey] | None:
    """The keys of an event that names the hashes of some of its blocks, out of the `keys` of all of them.

    None when that cannot be told.
    """
    state = group.state
    if state.placements:
        _settle_by_hash(cache, state, stored.hashes, frozenset(keys))
    if state.salted and stored.parent is None and not any(stored.extras) and state.has_windows_alone:
        state.mark_inexact(InexactReason.UNNAMED_SALT)  # a salt is named with the first block, which is left out
    placed = place(group, stored.hashes, list(keys), stored.tokens[-stored.block_size :])
    if placed is None:
        return None
    if isinstance(placed, Placement):
        state.placements.update(dict.fromkeys(stored.hashes, placed))
        if any(other is not group for other in state.groups):
            state.mark_inexact(InexactReason.WINDOW_BLOCKS)  # prompts can share more in one than in the other
        placed = placed.keys
    return as_key_vector(list(placed))


def settle_by_parent(cache: FullAttention, state: RankState, stored: Stored) -> BlockKey | None:
    """Lets an event that follows a window's last block tell where that is; gives the block's key.

    One that repeats what the stretch ended with comes before it; tokens of which nothing is kept are generated
    next. Any other may go on from the end of the stretch, or differ from it in its last block: its blocks are in
    doubt as well.
    """
    placement = state.placements.get(stored.parent) if stored.parent is not None else None
    if placement is None or stored.parent != placement.hashes[-1]:
        return None
    if stored.tokens[: placement.group.block_size] == placement.last_tokens:
        return _settle(cache, placement, before=True)
    return None if stored.hashes else _settle(cache, placement, before=False)


def note_follower(group: CacheGroup, stored: Stored) -> None:
    """Puts blocks in doubt that are chained to blocks in doubt."""
    placements = group.state.placements
    placement = placements.get(stored.parent) if stored.parent is not None else None
    if placement is None:
        return
    for block_hash in stored.hashes:
        if block_hash not in placements and block_hash not in group.hashes:
            placements[block_hash] = placement
            placement.followers.append((group, block_hash))


def _settle_by_hash(
    cache: FullAttention, state: RankState, hashes: Sequence[BlockHash], keys: frozenset[BlockKey]
) -> None:
    """Lets another prompt that has some of a window's blocks tell where those are."""
    for block_hash in hashes:
        placement = state.placements.get(block_hash)
        if placement is not None and block_hash in placement.hashes:
            number = list(placement.hashes).index(block_hash)
            if (placement.keys[number] in keys) != (placement.keys_before[number] in keys):
                _settle(cache, placement, before=placement.keys_before[number] in keys)


def _settle(cache: FullAttention, placement: Placement, *, before: bool) -> BlockKey:
    """Ends the doubt about where blocks are; gives the key of the last."""
    group = placement.group
    placements = group.state.placements
    keys = placement.keys_before if before else placement.keys
    for block_hash, key in zip(placement.hashes, keys, strict=True):
        held = placements.pop(block_hash, None) is not None
        if before and held and cache.remove_last_copy(group, _GPU, block_hash):
            cache.store(group, _GPU, as_key_vector([block_hash]), as_key_vector([key]))
    for follower, block_hash in placement.followers:
        if placements.pop(block_hash, None) is not None and before:
            cache.remove_last_copy(follower, _GPU, block_hash)
            group.state.mark_inexact(InexactReason.WINDOW_BLOCKS)
    return keys[-1]
