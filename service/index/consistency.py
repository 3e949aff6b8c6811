"""Whether an index agrees with itself: the invariants between its masks and its groups' hashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from service.index.base import Tier
from service.index.cache_groups import RankState
from service.index.chain import bits
from service.index.full_attention import FullAttention


def disagreements(cache: FullAttention, ranks: Iterable[RankState]) -> Iterator[str]:
    """Walks over every block; gives a sentence for each thing that does not fit.

    Every bit of a mask stands for a group that has a hash for that key, every hash has a bit on some tier, and the
    counts are those of the bits.
    """
    counted: Counter[tuple[int, Tier]] = Counter()
    for tier, masks in zip(Tier, cache.masks, strict=True):
        for _, mask in masks.items():
            if not mask:
                yield "a mask is empty"
            counted.update((number, tier) for number in bits(mask))
    live = {group.bit.bit_length() - 1: group for state in ranks for group in state.groups}
    for number, group in live.items():
        if cache.groups[number] is not group:
            yield f"bit {number} stands for another group"
        for tier in Tier:
            if counted[number, tier] != group.sizes[tier]:
                yield f"{group.rank} holds {counted[number, tier]} blocks on {tier.name}, not {group.sizes[tier]}"
        for block_hash, key in group.hashes.items():
            if not any(masks.get(key) & group.bit for masks in cache.masks):
                yield f"{group.rank} has hash {block_hash!r} of a block that it does not hold"
        keys = {key for _, key in group.hashes.items()}
        held = sum(any(masks.get(key) & group.bit for masks in cache.masks) for key in keys)
        if held != len({key for masks in cache.masks for key, mask in masks.items() if mask & group.bit}):
            yield f"{group.rank} holds a block that it has no hash of"
        if any(count < 1 for count in (*group.extra_copies.values(), *group.alias_counts.values())):
            yield f"{group.rank} counts copies below one"
    if cache.blocks != sum(sum(group.sizes) for group in live.values()):
        yield f"{cache.blocks} blocks are not the sum of what ranks hold"
