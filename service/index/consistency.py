"""Whether an index agrees with itself: the invariants between its masks and its engines' names for blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from service.index.base import Tier
from service.index.cache_groups import Holder, RankState
from service.index.matching import bits
from service.native.backend import GroupMasks


def disagreements(
    holding: Sequence[GroupMasks],
    holders: Sequence[Holder | None],
    ranks: Iterable[RankState],
    blocks: int,
) -> Iterator[str]:
    """Walks over every block; gives a sentence for each thing that does not fit.

    Every bit of a mask stands for a holder that has a name for that key, every name has a bit on some tier, and the
    counts are those of the bits.
    """
    counted: Counter[tuple[int, Tier]] = Counter()
    for tier, masks in zip(Tier, holding, strict=True):
        for _, mask in masks.items():
            if not mask:
                yield "a mask is empty"
            counted.update((number, tier) for number in bits(mask))
    live = {holder.bit.bit_length() - 1: holder for state in ranks for holder in state.holders}
    for number, holder in live.items():
        if holders[number] is not holder:
            yield f"bit {number} stands for another holder"
        for tier in Tier:
            if counted[number, tier] != holder.sizes[tier]:
                yield f"{holder.rank} holds {counted[number, tier]} blocks on {tier.name}, not {holder.sizes[tier]}"
        for block_hash, key in holder.keys.items():
            if not any(masks.get(key) & holder.bit for masks in holding):
                yield f"{holder.rank} names block {block_hash!r}, which it does not hold"
        keys = {key for _, key in holder.keys.items()}
        held = sum(any(masks.get(key) & holder.bit for masks in holding) for key in keys)
        if held != len({key for masks in holding for key, mask in masks.items() if mask & holder.bit}):
            yield f"{holder.rank} holds a block that it has no name for"
        if any(count < 1 for count in (*holder.copies.values(), *holder.doubles.values())):
            yield f"{holder.rank} counts copies below one"
    if blocks != sum(sum(holder.sizes) for holder in live.values()):
        yield f"{blocks} blocks are not the sum of what ranks hold"
