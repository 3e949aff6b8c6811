"""A prompt's block keys, and the groups that hold each of them per tier; computed once for all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

from service.index.base import BlockKey, Tier
from service.native.backend import GroupMasks, as_key_vector


class Chain:
    """The keys of one prompt in one layout.

    `device[i]`, `cpu[i]` and `below[i]` are the masks of the groups that hold key i on the device, on the CPU and on
    any lower tier; computed on first use.
    """

    def __init__(self, keys: Sequence[BlockKey], masks: Sequence[GroupMasks]) -> None:
        self.keys = as_key_vector(keys)
        self._masks = masks
        self._strided = {1: self.keys}
        self._device: list[int] | None = None
        self._cpu: list[int] | None = None
        self._below: list[int] | None = None
        self._windows: dict[tuple[bool, int, int, int], int] = {}

    def strided(self, stride: int) -> Sequence[BlockKey]:
        """The keys of blocks that have `stride` units each."""
        if stride not in self._strided:
            self._strided[stride] = as_key_vector(list(self.keys[stride - 1 :: stride]))
        return self._strided[stride]

    @property
    def device(self) -> list[int]:
        if self._device is None:
            self._device = self._held(Tier.GPU)
        return self._device

    @property
    def cpu(self) -> list[int]:
        if self._cpu is None:
            self._cpu = self._held(Tier.CPU)
        return self._cpu

    @property
    def below(self) -> list[int]:
        if self._below is None:
            self._below = [cpu | storage for cpu, storage in zip(self.cpu, self._held(Tier.STORAGE), strict=True)]
        return self._below

    def window(self, on_device: bool, last: int, count: int, stride: int) -> int:
        """The groups that hold all `count` blocks up to the one whose last unit is `last`."""
        place = (on_device, last, count, stride)
        mask = self._windows.get(place)
        if mask is None:
            held = self.device if on_device else self.below
            mask = self._windows[place] = reduce(and_, held[last - (count - 1) * stride : last + 1 : stride], -1)
        return mask

    def _held(self, tier: Tier) -> list[int]:
        masks = self._masks[tier]
        if not masks:
            return [0] * len(self.keys)
        held: list[int] = []
        mask = 0
        for position, following in (*masks.spans(self.keys), (len(self.keys), 0)):
            held.extend([mask] * (position - len(held)))
            mask = following
        return held


class Span(NamedTuple):
    """From block `start` on, until the next span, the same groups hold all blocks so far, on these tiers."""

    start: int
    on_device: int
    on_cpu: int


def tiered_prefixes(
    keys: Sequence[BlockKey], masks: Sequence[GroupMasks], wanted: int
) -> tuple[list[tuple[int, int]], list[Span]]:
    """As FullAttention.match, over all tiers, with the spans that tell a prefix's tiers.

    An engine reuses the run of blocks on the device first, then the blocks that continue it on lower tiers.
    """
    per_tier = [dict(table.spans(keys)) if table else {} for table in masks]
    device, cpu, storage = 0, 0, 0
    ends: list[tuple[int, int]] = []
    spans: list[Span] = []
    on_device, below = wanted, 0
    for position in sorted(set().union(*per_tier)):
        device, cpu, storage = (
            changes.get(position, mask) for changes, mask in zip(per_tier, (device, cpu, storage), strict=True)
        )
        alive = on_device | below
        below = (below | on_device & ~device) & (cpu | storage)
        on_device &= device
        if position and (gone := alive & ~(on_device | below)):
            ends.append((position, gone))
        spans.append(Span(position, on_device, below & cpu))
        if not on_device | below:
            return ends, spans
    if on_device | below:
        ends.append((len(keys), on_device | below))
    return ends, spans


def by_tiers(spans: Sequence[Span], mask: int, blocks: int, block_size: int) -> Iterator[tuple[int, dict[Tier, int]]]:
    """The groups of a mask that have the tokens of their first `blocks` blocks on the same tiers, and these by tier."""
    parts: list[tuple[int, dict[Tier, int]]] = [(mask, {})]
    for number, span in enumerate(spans):
        stop = spans[number + 1].start if number + 1 < len(spans) else blocks
        length = min(stop, blocks) - span.start
        if length <= 0:
            break
        split = []
        for groups, tokens in parts:
            on_device, on_cpu = groups & span.on_device, groups & ~span.on_device & span.on_cpu
            for tier, some in zip(Tier, (on_device, on_cpu, groups & ~on_device & ~on_cpu), strict=True):
                if some:
                    split.append((some, {**tokens, tier: tokens.get(tier, 0) + length * block_size}))
        parts = split
    yield from parts


_BITS_OF_BYTE = [tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256)]


def bits(mask: int) -> Iterator[int]:
    """The numbers of the set bits, lowest first; masks of thousands of groups are walked by byte."""
    if mask >> 64:
        for place, byte in enumerate(mask.to_bytes((mask.bit_length() + 7) // 8, "little")):
            for bit in _BITS_OF_BYTE[byte]:
                yield 8 * place + bit
        return
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
