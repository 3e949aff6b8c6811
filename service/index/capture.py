"""Reads all that the index knows of a rank, in slices: what a snapshot holds of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from service.index.cache_groups import CacheGroup, RankState
from service.index.full_attention import FullAttention
from service.index.snapshot_records import (
    AliasesRecord,
    AmbiguousCopiesRecord,
    BlockRecord,
    BlocksRecord,
    CopiesRecord,
    GroupRecord,
    OldBlocksRecord,
    PlacementRecord,
    RankRecord,
)
from service.native.backend import unpack_numbers

_SLICE = 2048
_T = TypeVar("_T")


def capture_rank(state: RankState, admissions: int, era: int) -> RankRecord:
    """The first record of a rank; `era` is the number of admissions in one."""
    places = {group.bit: place for place, group in enumerate(state.groups)}
    doubt = state.reset_doubt
    return RankRecord(
        admissions=admissions,
        groups=[_group(group, era) for group in state.groups],
        inexact=state.inexact and state.inexact.name,
        observed=state.observed and state.observed.name,
        sizes=sorted(state.sizes),
        unsupported_groups=list(state.unsupported_groups.items()),
        loras=sorted(state.loras),
        salted=state.salted,
        drops_last_block=state.drops_last_block,
        sends_reuse_reports=state.sends_reuse_reports,
        last_was_reuse_report=state.last_was_reuse_report,
        chunk_blocks=state.chunk_blocks,
        lower_tier_is_pool=state.lower_tier_is_pool,
        first_stores=None
        if state.first_stores is None
        else [(parent, list(hashes)) for parent, hashes in state.first_stores],
        placements=_placements(state, places),
        removes_each_copy=state.removes_each_copy,
        removes_last_copy_only=state.removes_last_copy_only,
        half_removed=sorted(state.half_removed),
        recomputed_last_blocks=state.recomputed_last_blocks,
        restored_after_removal=state.restored_after_removal,
        resets=None if doubt is None else doubt.resets,
        followed=[] if doubt is None else [(places[bit], name) for bit, name in doubt.followed if bit in places],
    )


def capture_blocks(cache: FullAttention, state: RankState) -> Iterator[BlockRecord]:
    """The other records of a rank. Raises RuntimeError if the rank changes meanwhile and that can be told."""
    places = {group.bit: place for place, group in enumerate(state.groups)}
    for place, group in enumerate(state.groups):
        yield from _blocks(cache, place, group)
        for copies in _sliced((name, int(tier), count) for (name, tier), count in group.extra_copies.items()):
            yield CopiesRecord(place, copies)
        for counts in _sliced((key, int(tier), count) for (key, tier), count in group.alias_counts.items()):
            yield AliasesRecord(place, counts)
        for ambiguous in _sliced(group.ambiguous_copies.items()):
            yield AmbiguousCopiesRecord(place, ambiguous)
    if state.reset_doubt is not None:
        old_blocks = (
            (
                places[bit],
                name,
                [(int(tier), count) for tier, count in old.copies.items()],
                old.resets,
                old.stored_again,
            )
            for (bit, name), old in state.reset_doubt.blocks.items()
            if bit in places
        )
        for blocks in _sliced(old_blocks):
            yield OldBlocksRecord(blocks)


def _group(group: CacheGroup, era: int) -> GroupRecord:
    return GroupRecord(
        group.index,
        group.kind.needs.name,
        group.kind.window,
        group.block_size,
        group.layout.unit,
        group.layout.lookahead,
        group.on_device,
        [(number * era, blocks) for number, blocks in group.ages.counted()],
        group.hashes.shards(),
    )


def _blocks(cache: FullAttention, place: int, group: CacheGroup) -> Iterator[BlocksRecord]:
    on_device_alone = not group.below_device
    size = 8 * _SLICE
    for all_hashes, all_keys in group.hashes.slices():
        for at in range(0, len(all_keys), size):
            hashes, keys = all_hashes[at : at + size], all_keys[at : at + size]
            tiers: list[bytes] = []
            if not on_device_alone:
                numbers = unpack_numbers(keys)
                tiers = [masks.holds(group.bit, numbers) for masks in cache.masks]
            yield BlocksRecord(place, hashes, keys, tiers)


def _placements(state: RankState, places: Mapping[int, int]) -> list[PlacementRecord]:
    """Placements of a group that stopped counting are left out: the rank is inexact since then."""
    placed: dict[int, list[int]] = {}
    for name, placement in state.placements.items():
        placed.setdefault(id(placement), []).append(name)
    unique = {id(placement): placement for placement in state.placements.values()}
    return [
        PlacementRecord(
            places[placement.group.bit],
            list(placement.hashes),
            list(placement.keys),
            list(placement.keys_before),
            list(placement.last_tokens),
            [(places[group.bit], name) for group, name in placement.followers if group.bit in places],
            placed[number],
        )
        for number, placement in unique.items()
        if placement.group.bit in places
    ]


def _sliced(entries: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(entries)
    while some := list(islice(rest, _SLICE)):
        yield some
