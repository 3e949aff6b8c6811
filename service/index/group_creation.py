"""The KV-cache group of blocks that are the first of theirs, or have another size than those before."""

from __future__ import annotations

from math import gcd

from service.index.base import Rank, Stored, Tier
from service.index.cache_groups import (
    BlockLayout,
    CacheGroup,
    Needs,
    RankState,
    UnsupportedGroupError,
    group_kind,
    is_local_attention,
)
from service.index.full_attention import FullAttention
from service.index.inexact_reasons import InexactReason
from service.index.lookup import Lookup

_MAX_GROUPS = 64
"""KV-cache groups and block sizes of one rank. Each group takes a bit of the masks that all ranks share."""


def new_group(cache: FullAttention, lookup: Lookup, rank: Rank, state: RankState, stored: Stored) -> CacheGroup | None:
    """The group of an event's blocks, which are its first or have another size; None when they do not count."""
    if len(state.groups) + len(state.unsupported_groups) >= _MAX_GROUPS:
        state.mark_inexact(InexactReason.UNSUPPORTED_GROUP)
        return None
    same = next((group for group in state.groups if group.index == stored.group and group.on_device), None)
    if stored.group in state.unsupported_groups:
        return None
    if same is not None and stored.tier is Tier.GPU and stored.lookahead == same.layout.lookahead:
        return _of_other_size(lookup, same, stored)
    try:
        kind = group_kind(stored)
    except UnsupportedGroupError as error:
        state.unsupported_groups[stored.group] = str(error)
        return None
    if is_local_attention(stored):
        state.mark_inexact(InexactReason.UNSUPPORTED_GROUP)
    layout = _layout(state, stored)
    number = cache.free_bit()
    group = CacheGroup(
        rank, state, index=stored.group, block_size=stored.block_size, bit=1 << number, kind=kind, layout=layout
    )
    group.on_device = stored.tier is Tier.GPU
    cache.groups[number] = group
    with lookup.changing(rank.model, state):
        state.sizes.add(stored.block_size)
        state.groups.append(group)
    return group


def _layout(state: RankState, stored: Stored) -> BlockLayout:
    """The layout of a new group: that of the engine's others where its blocks fit."""
    size = stored.block_size
    if stored.tier is not Tier.GPU or stored.lookahead:
        return BlockLayout(size, stored.lookahead)
    for group in state.groups:
        if group.on_device and not group.layout.lookahead:
            if size % group.layout.unit == 0:
                return group.layout
            state.mark_inexact(InexactReason.BLOCK_SIZES)
    return BlockLayout(gcd(size, stored.hash_unit))


def _of_other_size(lookup: Lookup, group: CacheGroup, stored: Stored) -> CacheGroup | None:
    """A group's blocks of another size than those before: parts of blocks, at the end of a prompt.

    With recurrent states vLLM reuses them; they count where what precedes them is known.
    """
    state = group.state
    recurrent = any(each.kind.needs is Needs.STATE for each in state.groups)
    fits = stored.block_size % group.layout.unit == 0
    if stored.block_size > group.block_size and fits:
        with lookup.changing(group.rank.model, state):
            group.block_size, group.plain = stored.block_size, None
            if len(state.sizes) < _MAX_GROUPS:
                state.sizes.add(stored.block_size)
        if group.kind.needs is not Needs.STATE:
            state.mark_inexact(InexactReason.PARTIAL_BLOCKS)
        return group
    if not recurrent:
        return None
    if not fits:
        state.mark_inexact(InexactReason.PARTIAL_BLOCKS)
        return None
    return group
