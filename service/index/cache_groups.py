"""Who holds blocks: each KV-cache group of each rank, and what it needs of a prefix for its engine to reuse it."""

from __future__ import annotations

from typing import NamedTuple

from service.index.base import BlockHash, BlockKey, Rank, Stored, Tier
from service.index.eviction import Ages
from service.native.backend import Table

_WHOLE = ("full_attention", "mla_attention", "sink_full_attention")
_WINDOWS = ("sliding_window", "sliding_window_mla")


class Cut(NamedTuple):
    """How a prompt is cut into blocks; prompts are hashed once per cut, whatever the number of ranks that have it."""

    block_size: int
    lookahead: int


class Holder:
    """One KV-cache group of one rank: the bit that stands for it in all masks, and its engine's names for blocks."""

    __slots__ = ("ages", "bit", "copies", "cut", "doubles", "doubts", "group", "keys", "rank", "sizes", "state", "tail")

    def __init__(
        self, rank: Rank, state: RankState, bit: int, *, group: int | None, cut: Cut, tail: int | None
    ) -> None:
        self.rank = rank
        self.state = state
        self.group = group
        self.cut = cut
        self.tail = tail
        """Blocks that must be held at the end of a reused prefix; None where all of it must be."""
        self.bit = bit
        self.keys = Table()
        """Its engine's names for blocks, to the blocks' keys."""
        self.copies: dict[tuple[BlockHash, Tier], int] = {}
        """Of blocks held more than once under one hash, the copies beyond the first."""
        self.doubles: dict[tuple[BlockKey, Tier], int] = {}
        """Of blocks held under several hashes, the hashes beyond the first."""
        self.doubts: set[BlockHash] = set()
        """Blocks that were counted as copies and may have been reports of reuse."""
        self.sizes = [0] * len(Tier)
        self.ages = Ages()

    @property
    def is_simple(self) -> bool:
        """Whether it holds every block once, on the device alone."""
        return not (self.copies or self.doubles or self.doubts or self.sizes[Tier.CPU] or self.sizes[Tier.STORAGE])


class RankState:
    """What is known of one rank."""

    __slots__ = ("hidden", "holders", "inexact_reason", "reported", "reports", "salted", "sizes", "unsupported_groups")

    def __init__(self) -> None:
        self.holders: list[Holder] = []
        self.hidden = False
        self.inexact_reason: str | None = None
        self.sizes: set[int] = set()
        """Every block size that its events named."""
        self.unsupported_groups: dict[int | None, str] = {}
        """Groups that are not understood, and of what kind they are."""
        self.salted = False
        """Whether it hashes more than tokens and LoRA names into blocks."""
        self.reports = False
        """Whether it certainly reports reuse at times."""
        self.reported = False
        """Whether the last store that may have been such a report was one."""

    @property
    def primary(self) -> Holder | None:
        """The group that prompts are first looked up in: one of full attention if there is one."""
        return next(
            (holder for holder in self.holders if holder.tail is None), self.holders[0] if self.holders else None
        )

    @property
    def hybrid(self) -> bool:
        """Whether more than one run of blocks from the first decides what the engine reuses."""
        return len(self.holders) != 1 or self.holders[0].tail is not None

    def holder_of(self, stored: Stored) -> Holder | None:
        """The holder of an event's blocks, None before their first."""
        group, cut = stored.group, (stored.block_size, stored.lookahead)
        for holder in self.holders:
            if holder.group == group and holder.cut == cut:
                return holder
        return None

    def of_group(self, group: int | None) -> list[Holder]:
        """The holders of a group; all of them when the event or the holders name none."""
        return [holder for holder in self.holders if None in (group, holder.group) or group == holder.group]

    @property
    def recurrent(self) -> bool:
        """Whether a group keeps single states (mamba), with which vLLM can reuse parts of blocks of full attention."""
        return any(holder.tail == 1 for holder in self.holders)

    def ends_a_block(self, stored: Stored) -> bool:
        """Whether this is no block of a group of full attention but the part of one at a prompt's end."""
        return any(
            holder.group == stored.group and holder.tail is None and holder.cut.block_size > stored.block_size
            for holder in self.holders
        )

    def knows_all(self, stored: Stored) -> bool:
        """Whether every block that an event names has a key already."""
        holders = self.of_group(stored.group)
        return all(any(block_hash in holder.keys for holder in holders) for block_hash in stored.hashes)

    def known(self, block_hash: BlockHash, cut: Cut) -> BlockKey | None:
        """The key of a block in any group with that cut: engines name a block alike in all groups that have it."""
        for holder in self.holders:
            if holder.cut == cut and (key := holder.keys.get(block_hash)) is not None:
                return key
        return None


def tail_blocks(stored: Stored) -> int | None:
    """How many blocks the group of these blocks needs at the end of a prefix; None for all of it.

    Raises ValueError when the kind of the group is not understood. Source: find_longest_cache_hit of the managers in
    vllm/v1/core/single_type_kv_cache_manager.py, vLLM 0.33.
    """
    if stored.kind in _WHOLE or (stored.kind is None and not stored.group):
        return None
    if stored.kind in _WINDOWS and stored.window:
        return -(-(stored.window - 1) // stored.block_size)
    if stored.kind == "mamba":
        return 1
    raise ValueError(stored.kind or f"group {stored.group}")
