"""From a prompt's block keys to how much of it each rank would reuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

from service.index.base import BlockKey, RankMatch, Tier
from service.index.cache_groups import Cut, Holder, RankState
from service.native.backend import GroupMasks, as_key_vector


class Run(NamedTuple):
    """From block `start` on, the same holders hold each block of the chain in the same tiers."""

    start: int
    on_gpu: int
    on_cpu: int


class Chain:
    """A prompt cut into blocks, and for each block who holds it: a mask per tier out of `holding`."""

    def __init__(self, keys: Sequence[BlockKey], holding: Sequence[GroupMasks]) -> None:
        self.keys = as_key_vector(keys)
        self._holding = holding
        self._masks: list[int] = []
        self._tails: dict[tuple[int, int], int] = {}

    def prefixes(self, wanted: int) -> tuple[list[tuple[int, int]], list[Run] | None]:
        """How many blocks from the first the wanted holders hold: (blocks, mask of those that hold just as many).

        Costs a probe per block, and an AND wherever who holds it changes. Holders of none are left out. The runs say
        in which tiers they hold them; None when all is on the device.
        """
        gpu, cpu, storage = self._holding
        runs: list[Run] | None
        if cpu or storage:
            changes, runs = self._over_tiers(wanted)
        else:
            changes, runs = gpu.prefix(self.keys, wanted), None
        ends: list[tuple[int, int]] = []
        alive = wanted
        for position, still in (*changes, (len(self.keys), 0)):
            if still != alive and position:
                ends.append((position, alive ^ still))
            alive = still
        return ends, runs

    def _over_tiers(self, wanted: int) -> tuple[list[tuple[int, int]], list[Run]]:
        """Who still holds all, wherever that changes, and in which tiers."""
        spans = [dict(holding.spans(self.keys)) if holding else {} for holding in self._holding]
        masks = [0] * len(spans)
        changes: list[tuple[int, int]] = []
        runs: list[Run] = []
        alive = wanted
        for position in sorted(set().union(*spans)):
            masks = [span.get(position, mask) for span, mask in zip(spans, masks, strict=True)]
            on_gpu, on_cpu, on_storage = (alive & mask for mask in masks)
            still = on_gpu | on_cpu | on_storage
            if still != alive:
                changes.append((position, still))
                alive = still
            if not runs or (on_gpu, on_cpu) != runs[-1][1:]:
                runs.append(Run(position, on_gpu, on_cpu))
            if not alive:
                break
        return changes, runs

    def longest(self, holder: Holder, blocks: int) -> int:
        """The longest prefix, of at most `blocks` blocks, of which the holder has the part that it needs.

        What reaches back to the first block counts however short.
        """
        tail = blocks if holder.tail is None else min(holder.tail, blocks)
        if self._tail(blocks, tail) & holder.bit:
            return blocks
        held = [mask & holder.bit for mask in self._masks[:blocks]]
        if holder.tail is None:
            return held.index(0)
        run = 0
        for position in range(blocks - 1, -1, -1):
            run = run + 1 if held[position] else 0
            if run == holder.tail:
                return position + run
        return run

    def tier(self, holder: Holder, position: int) -> Tier | None:
        """The fastest tier in which a holder has a block."""
        key = self.keys[position]
        return next((tier for tier in Tier if self._holding[tier].get(key) & holder.bit), None)

    def _tail(self, blocks: int, tail: int) -> int:
        """The holders of each of the last `tail` of so many blocks."""
        gpu, cpu, storage = self._holding
        for position in range(len(self._masks), blocks):
            key = self.keys[position]
            self._masks.append(gpu.get(key) | cpu.get(key) | storage.get(key))
        mask = self._tails.get((blocks, tail))
        if mask is None:
            mask = self._tails[blocks, tail] = reduce(and_, self._masks[blocks - tail : blocks], -1)
        return mask


def prefix_match(holder: Holder, blocks: int, runs: Sequence[Run]) -> RankMatch:
    """The match of a rank with one group of full attention, whose holder has the first `blocks` blocks."""
    size = holder.cut.block_size
    tokens: dict[Tier, int] = {}
    for number, held in enumerate(runs):
        stop = runs[number + 1].start if number + 1 < len(runs) else blocks
        length = min(stop, blocks) - held.start
        if length <= 0:
            break
        tier = Tier.GPU if held.on_gpu & holder.bit else Tier.CPU if held.on_cpu & holder.bit else Tier.STORAGE
        tokens[tier] = tokens.get(tier, 0) + length * size
    return RankMatch(holder.rank, size, tokens)


def hybrid_match(state: RankState, tokens: int, chain: Callable[[Cut], Chain]) -> list[RankMatch]:
    """The match, if any, of a rank with several groups, or with none of full attention; at most `tokens` tokens.

    The longest prefix that suits every group. Source: HybridKVCacheCoordinator.find_longest_cache_hit, vLLM 0.33.
    """
    by_group: dict[int | None, list[Holder]] = {}
    for holder in state.holders:
        by_group.setdefault(holder.group, []).append(holder)
    shorter = tokens
    while True:
        length = shorter
        for holders in by_group.values():
            shorter = max(_longest(holder, shorter, chain(holder.cut)) for holder in holders)
        if shorter == length:
            break
    primary = state.primary
    if not length or primary is None:
        return []
    return [RankMatch(primary.rank, primary.cut.block_size, _tiers(primary, length, chain(primary.cut)))]


def _longest(holder: Holder, tokens: int, chain: Chain) -> int:
    size = holder.cut.block_size
    return chain.longest(holder, min(tokens // size, len(chain.keys))) * size


def _tiers(primary: Holder, tokens: int, chain: Chain) -> dict[Tier, int]:
    """Tokens by tier. What lies before a window is nowhere and counts with the block that follows it."""
    size = primary.cut.block_size
    tier = Tier.GPU
    counted: dict[Tier, int] = {}
    for position in range(tokens // size - 1, -1, -1):
        tier = chain.tier(primary, position) or tier
        counted[tier] = counted.get(tier, 0) + size
    return counted


_BITS_OF_BYTE = [tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256)]


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, lowest first; masks of thousands of holders take time for each byte."""
    if mask >> 64:
        for place, byte in enumerate(mask.to_bytes((mask.bit_length() + 7) // 8, "little")):
            for bit in _BITS_OF_BYTE[byte]:
                yield 8 * place + bit
        return
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
