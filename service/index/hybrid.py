"""Ranks whose answer takes more than one run of blocks: several KV-cache groups, lower tiers in chunks, EAGLE.

Source: HybridKVCacheCoordinator.find_longest_cache_hit (vllm/v1/core/kv_cache_coordinator.py), the managers in
single_type_kv_cache_manager.py, and the offloading connectors' get_num_new_matched_tokens, vLLM 0.33.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import lcm
from typing import NamedTuple

from service.index.base import RankMatch, Tier
from service.index.cache_groups import BlockLayout, CacheGroup, Needs, RankState
from service.index.chain import Chain

Chains = Callable[[BlockLayout], Chain]


def hybrid_match(state: RankState, tokens: int, chain: Chains) -> RankMatch | None:
    """The prefix that the engine would reuse of a prompt of `tokens` tokens; None without one.

    A prompt that is held whole counts as such, although the engine computes at least its last token again, unless that
    makes the engine reuse less than all blocks before it.
    """
    primary = state.primary
    if primary is None:
        return None
    found = _over_tiers(state, tokens, chain)
    if found and sum(found.values()) == tokens:
        without_last = _over_tiers(state, tokens - 1, chain)
        if sum(without_last.values()) < tokens - alignment(_engine_groups(state) or state.groups):
            found = without_last
    found = {tier: count for tier, count in found.items() if count}
    return RankMatch(primary.rank, primary.block_size, found) if found else None


def alignment(groups: Sequence[CacheGroup]) -> int:
    """The tokens that a prefix's length is a multiple of.

    A scheduler block, or, with recurrent states that are kept at every hash block, a hash block.
    """
    if not groups:
        return 1
    unit = groups[0].layout.unit
    if _has_partial_blocks(groups):
        return unit
    return lcm(*(group.block_size for group in groups))


def scheduler_block(state: RankState) -> int:
    """The tokens of the smallest block that all groups of the engine end together at."""
    return lcm(*(group.block_size for group in _engine_groups(state)))


def _engine_groups(state: RankState) -> list[CacheGroup]:
    return [group for group in state.groups if group.on_device]


def _has_partial_blocks(groups: Sequence[CacheGroup]) -> bool:
    return any(group.kind.needs is Needs.STATE and group.stride > 1 for group in groups) and not any(
        group.kind.needs is Needs.WINDOW and group.stride > 1 for group in groups
    )


def _over_tiers(state: RankState, limit: int, chain: Chains) -> dict[Tier, int]:
    """The prefix of at most `limit` tokens that the engine reuses, by tier.

    What all groups hold on the device comes first, then what all of them hold on lower tiers, or what a store beside
    the engine holds, whichever reaches further.
    """
    groups = _engine_groups(state)
    start = _prefix(groups, Span(True, 0, limit, 1), chain, eagle=state.drops_last_block) if groups else 0
    end, source = start, state.primary
    below = [group for group in groups if group.below_device]
    if below and len(below) == len(groups):
        chunk = max(1, state.chunk_blocks)
        reached = _prefix(groups, Span(False, start, limit, chunk), chain)
        if reached - start >= chunk * min(group.block_size for group in groups):
            end = reached
    for group in state.groups:
        if not group.on_device:
            reached = _Group(group, chain).all_blocks(Span(False, 0, limit, 1))
            if reached > end:
                end, source = reached, group
    tokens = {Tier.GPU: start}
    if end > start and source is not None:
        _count_below(source, chain(source.layout), tokens, end)
    return tokens


def _count_below(group: CacheGroup, chain: Chain, tokens: dict[Tier, int], end: int) -> None:
    """Counts what lies behind the device's prefix by tier. Blocks that a window or chunk leaves out count with the next
    that is held."""
    start, tier = tokens[Tier.GPU], Tier.CPU
    stride, unit = group.stride, group.layout.unit
    position = end
    while position > start:
        last = position // unit - 1
        if position % group.block_size == 0 and chain.below[last] & group.bit:
            tier = Tier.CPU if chain.cpu[last] & group.bit else Tier.STORAGE
        before = max(start, (last // stride) * stride * unit)
        tokens[tier] = tokens.get(tier, 0) + position - before
        position = before


class Span(NamedTuple):
    """Where to look: on the device or below it, from `start` to at most `limit` tokens, in chunks of blocks."""

    on_device: bool
    start: int
    limit: int
    chunk: int


def _prefix(groups: Sequence[CacheGroup], span: Span, chain: Chains, *, eagle: bool = False) -> int:
    """Where the longest prefix ends, in tokens, that suits every group.

    With EAGLE every attention group looks one block further, once per candidate length, and drops what it finds last.
    """
    unit = alignment(groups)
    ordered = sorted(groups, key=lambda group: group.kind.needs is not Needs.ALL)
    length = span.limit
    full: dict[int, int] = {}
    verified: set[int] = set()
    while True:
        current = length
        for group in ordered:
            if group.bit in full:
                current = min(current, full[group.bit])
                continue
            drops = eagle and group.bit not in verified and group.kind.needs is not Needs.STATE
            margin = min(group.block_size, unit) if drops else 0
            found = _Group(group, chain).longest(span._replace(limit=current + margin), unit, drops=drops)
            if drops:
                verified.add(group.bit)
            elif found < current:
                verified.clear()
            current = found
            if group.kind.needs is Needs.ALL:
                full[group.bit] = found
        if current >= length:
            return max(length, span.start)
        length = current


class _Group:
    """One group's part in a lookup."""

    def __init__(self, group: CacheGroup, chain: Chains) -> None:
        self._group = group
        self._chain = chain(group.layout)
        self._size = group.block_size
        self._unit = group.layout.unit

    def longest(self, span: Span, aligned: int, *, drops: bool) -> int:
        """Where the longest prefix ends, in tokens, of which the group holds what it needs."""
        span = span._replace(limit=min(span.limit, len(self._chain.keys) * self._unit))
        if span.limit <= span.start:
            return span.start
        match self._group.kind.needs:
            case Needs.ALL:
                end = self.all_blocks(span)
                if aligned < self._size:
                    end = self._into_next_block(span, end, aligned)
                if drops and end > span.start:
                    end -= min(aligned, self._size)
                return max(end - end % aligned, span.start) if span.chunk == 1 else end
            case Needs.WINDOW:
                return self._window(span, aligned, drops=drops)
            case Needs.STATE:
                return self._state(span, aligned)

    def all_blocks(self, span: Span) -> int:
        """Where the run of blocks from the start on ends."""
        held, bit, stride = self._held(span), self._group.bit, self._group.stride * span.chunk
        position = span.start // self._unit // stride * stride + stride - 1
        last = span.limit // self._unit
        while position < last and held[position] & bit:
            position += stride
        return max((position + 1 - stride) * self._unit, span.start)

    def _into_next_block(self, span: Span, end: int, aligned: int) -> int:
        """Where the longest part ends that is held of the block after a run."""
        held, bit = self._held(span), self._group.bit
        step = max(1, aligned // self._unit)
        first = end // self._unit
        last = min(first + self._group.stride - 1, span.limit // self._unit)
        for units in range(last - (last - first) % step, first, -step):
            if held[units - 1] & bit:
                return units * self._unit
        return end

    def _window(self, span: Span, aligned: int, *, drops: bool) -> int:
        """The last run of as many blocks as the window has; a run from the start on counts however short it is."""
        held, bit, stride = self._held(span), self._group.bit, self._group.stride
        needed = self._group.window_blocks + drops
        first = span.start // self._size
        run = 0
        for block in range(span.limit // self._size - 1, first - 1, -1):
            last = (block + 1) * stride - 1
            if not held[last] & bit:
                run = 0
                continue
            if not run and (block + 1 - drops) * self._size % aligned:
                continue
            if (
                not run
                and block + 1 - first >= needed
                and self._chain.window(span.on_device, last, needed, stride) & bit
            ):
                return (block + 1 - drops) * self._size
            run += 1
            if run >= needed:
                return (block + run - drops) * self._size
        end = (first + run) * self._size
        end -= end % aligned
        if drops and end > span.start:
            end -= self._size
            end -= end % aligned
        return max(end, span.start)

    def _state(self, span: Span, aligned: int) -> int:
        """The last aligned place whose state is held."""
        held, bit = self._held(span), self._group.bit
        step = max(1, aligned // self._unit)
        for units in range(span.limit // aligned * step, span.start // self._unit, -step):
            if held[units - 1] & bit:
                return units * self._unit
        return span.start

    def _held(self, span: Span) -> list[int]:
        return self._chain.device if span.on_device else self._chain.below
