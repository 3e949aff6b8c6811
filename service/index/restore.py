"""Builds a rank from the records of a snapshot, slice by slice."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence

from service.index.base import Rank, Tier
from service.index.cache_groups import BlockLayout, CacheGroup, GroupKind, Needs, Placement, RankState
from service.index.full_attention import FullAttention
from service.index.inexact_reasons import InexactReason
from service.index.reset_doubt import OldBlock, Place, ResetDoubt
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


class RankRestorer:
    """A rank that is being built. Its blocks count in no match until the rank is shown, which its owner does.

    `has_room` is asked, with a number of blocks, before they are added; those that find no room are left out, and the
    rank is inexact. The methods raise ValueError, LookupError, TypeError or OverflowError for records that do not fit.
    """

    def __init__(
        self,
        cache: FullAttention,
        rank: Rank,
        state: RankState,
        record: RankRecord,
        *,
        era: int,
        has_room: Callable[[int], bool],
    ) -> None:
        self._cache = cache
        self._state = state
        self._has_room = has_room
        self._record = record
        self._era = era
        for group in record.groups:
            state.groups.append(_group(cache, rank, state, group))
        _fill(state, record)

    def add(self, record: BlockRecord) -> None:
        """Adds the blocks, or what is known of them."""
        groups = self._state.groups
        match record:
            case BlocksRecord():
                self._add_blocks(groups[record.group], record)
            case CopiesRecord():
                groups[record.group].extra_copies.update(
                    ((name, Tier(tier)), count) for name, tier, count in record.copies
                )
            case AliasesRecord():
                groups[record.group].alias_counts.update(
                    ((key, Tier(tier)), count) for key, tier, count in record.counts
                )
            case AmbiguousCopiesRecord():
                groups[record.group].ambiguous_copies.update(record.copies)
            case OldBlocksRecord():
                self._add_old_blocks(record)

    def _add_blocks(self, group: CacheGroup, record: BlocksRecord) -> None:
        hashes, keys = unpack_numbers(record.hashes), unpack_numbers(record.keys)
        if len(hashes) != len(keys) or any(len(held) != len(keys) for held in record.tiers):
            raise ValueError("blocks without hashes or tiers")
        if not self._has_room(len(keys) * max(1, len(record.tiers))):
            self._state.mark_inexact(InexactReason.EVICTED_HERE)
            return
        group.hashes.put_all(hashes, keys)
        for tier in Tier:
            if record.tiers:
                held = record.tiers[tier]
                if not any(held):
                    continue
                there = keys if all(held) else _chosen(record.keys, held)
            elif tier is Tier.GPU:
                there = keys
            else:
                continue
            added = self._cache.masks[tier].set_all(group.bit, there)
            group.sizes[tier] += added
            self._cache.blocks += added

    def _add_old_blocks(self, record: OldBlocksRecord) -> None:
        doubt = self._state.reset_doubt
        if doubt is None:
            raise ValueError("blocks in doubt without a reset")
        for place, name, copies, resets, stored_again in record.blocks:
            bit = self._state.groups[place].bit
            doubt.blocks[Place(bit, name)] = OldBlock(
                {Tier(tier): count for tier, count in copies}, resets, stored_again
            )

    def finish(self) -> None:
        """Ends the rank. Only from then on can it be evicted from."""
        for group, record in zip(self._state.groups, self._record.groups, strict=True):
            group.ages.restore([(admissions // self._era, blocks) for admissions, blocks in record.ages])
        self._state.update_ordinary()


def _group(cache: FullAttention, rank: Rank, state: RankState, record: GroupRecord) -> CacheGroup:
    if record.block_size < 1 or record.unit < 1 or record.block_size % record.unit:
        raise ValueError("a group without a block size")
    kind = GroupKind(Needs[record.needs], record.window)
    layout = BlockLayout(record.unit, record.lookahead)
    number = cache.free_bit()
    group = CacheGroup(
        rank, state, index=record.index, block_size=record.block_size, bit=1 << number, kind=kind, layout=layout
    )
    cache.groups[number] = group
    group.on_device = record.on_device
    group.hashes.shape(record.shards)
    return group


def _fill(state: RankState, record: RankRecord) -> None:
    state.inexact = InexactReason[record.inexact] if record.inexact is not None else None
    state.observed = InexactReason[record.observed] if record.observed is not None else None
    state.sizes.update(record.sizes)
    state.unsupported_groups.update(record.unsupported_groups)
    state.salted = record.salted
    state.drops_last_block = record.drops_last_block
    state.sends_reuse_reports = record.sends_reuse_reports
    state.last_was_reuse_report = record.last_was_reuse_report
    state.chunk_blocks = record.chunk_blocks
    state.lower_tier_is_pool = record.lower_tier_is_pool
    state.first_stores = None if record.first_stores is None else deque(record.first_stores)
    state.removes_each_copy = record.removes_each_copy
    state.removes_last_copy_only = record.removes_last_copy_only
    state.half_removed.update(record.half_removed)
    state.recomputed_last_blocks = record.recomputed_last_blocks
    state.restored_after_removal = record.restored_after_removal
    for placement in record.placements:
        _place(state, placement)
    if record.resets is not None:
        state.reset_doubt = ResetDoubt(record.resets)
        state.reset_doubt.followed.update(Place(state.groups[place].bit, name) for place, name in record.followed)


def _place(state: RankState, record: PlacementRecord) -> None:
    placement = Placement(
        state.groups[record.group],
        record.hashes,
        record.keys,
        record.keys_before,
        array("I", record.last_tokens),
        [(state.groups[place], name) for place, name in record.followers],
    )
    state.placements.update(dict.fromkeys(record.placed, placement))


def _chosen(keys: bytes, held: bytes) -> Sequence[int]:
    return unpack_numbers(b"".join(keys[8 * at : 8 * at + 8] for at, there in enumerate(held) if there))
