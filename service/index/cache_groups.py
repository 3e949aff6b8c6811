"""The state of one rank: its KV-cache groups, and the blocks that each must hold for the engine to reuse a prefix."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from service.index.base import BlockHash, BlockKey, PackedBatches, Rank, Stored, Tier, TokenIds
from service.index.block_ages import BlockAges
from service.index.inexact_reasons import InexactReason
from service.index.reset_doubt import ResetDoubt
from service.native.backend import Table

_FULL = ("full_attention", "mla_attention", "sink_full_attention")
_WINDOWS = ("sliding_window", "sliding_window_mla")
_LOCAL = "chunked_local_attention"


class BlockLayout(NamedTuple):
    """How block keys are chained; a prompt is hashed once per layout, whatever the number of ranks that have it.

    The groups of an engine share a layout: `unit` is the greatest common divisor of their block sizes, as vLLM's
    hash_block_size is, and the key of a block is that of the last unit in it.
    """

    unit: int
    """Tokens per key."""
    lookahead: int = 0
    """Tokens past each unit that are hashed into it."""


class Needs(Enum):
    """Which blocks of a prefix a group must hold for the engine to reuse the prefix."""

    ALL = auto()
    WINDOW = auto()
    """The last ones, as many as a window reaches back."""
    STATE = auto()
    """The last one, which holds a recurrent state (mamba)."""


class GroupKind(NamedTuple):
    """`window` is in tokens, 0 for other kinds."""

    needs: Needs
    window: int = 0


class UnsupportedGroupError(Exception):
    """A group is of a kind that the index does not know; the text is that kind."""


def group_kind(stored: Stored) -> GroupKind:
    """The requirements of the group of these blocks. Raises UnsupportedGroupError.

    Source: find_longest_cache_hit of the managers in vllm/v1/core/single_type_kv_cache_manager.py, vLLM 0.33. No event
    names the chunk size of local attention: alone it counts as full attention, which promises too little.
    """
    if stored.kind in _FULL or (not stored.group and stored.kind in (None, _LOCAL)):
        return GroupKind(Needs.ALL)
    if stored.kind in _WINDOWS and stored.window:
        return GroupKind(Needs.WINDOW, stored.window)
    if stored.kind == "mamba":
        return GroupKind(Needs.STATE)
    raise UnsupportedGroupError(stored.kind or f"group {stored.group}")


def is_local_attention(stored: Stored) -> bool:
    """Whether the blocks are of chunked local attention (Llama 4)."""
    return stored.kind == _LOCAL


class CacheGroup:
    """One KV-cache group of one rank: the bit that stands for it in all masks, and its engine's names for blocks."""

    __slots__ = (
        "ages",
        "alias_counts",
        "ambiguous_copies",
        "bit",
        "block_size",
        "extra_copies",
        "hashes",
        "index",
        "kind",
        "layout",
        "lookahead",
        "on_device",
        "plain",
        "rank",
        "sizes",
        "state",
    )

    def __init__(
        self,
        rank: Rank,
        state: RankState,
        *,
        index: int | None,
        block_size: int,
        bit: int,
        kind: GroupKind,
        layout: BlockLayout,
    ) -> None:
        self.rank = rank
        self.state = state
        self.bit = bit
        self.index = index
        """`group_idx`; None where events have no groups."""
        self.kind = kind
        self.block_size = block_size
        self.layout = layout
        self.lookahead = layout.lookahead
        self.on_device = False
        """False for a store beside the engine (LMCache), whose blocks are on lower tiers only."""
        self.hashes = Table()
        """Block hash to block key."""
        self.extra_copies: dict[tuple[BlockHash, Tier], int] = {}
        """Of blocks held more than once under one hash, the copies beyond the first."""
        self.ambiguous_copies: dict[BlockHash, bool] = {}
        """Blocks counted as copies that may have been reported instead; True for those of a single scheduler block."""
        self.alias_counts: dict[tuple[BlockKey, Tier], int] = {}
        """Of blocks held under several hashes, the hashes beyond the first."""
        self.sizes = [0] * len(Tier)
        """Blocks by tier."""
        self.ages = BlockAges()
        self.plain: PackedBatches | None = None
        """Applies batches of blocks of this size; None before the first one."""

    @property
    def stride(self) -> int:
        """Keys per block."""
        return self.block_size // self.layout.unit

    @property
    def window_blocks(self) -> int:
        """Blocks that the window reaches back from the end of a prefix."""
        return -(-(self.kind.window - 1) // self.block_size)

    @property
    def below_device(self) -> int:
        """Blocks on lower tiers."""
        return self.sizes[Tier.CPU] + self.sizes[Tier.STORAGE]

    @property
    def holds_each_block_once(self) -> bool:
        """Whether every block is on the device alone, and once."""
        return not (self.extra_copies or self.alias_counts or self.below_device)


class Placement(msgspec.Struct, gc=False, eq=False):
    """Blocks at the end of a stretch that may be one block further left: the prompt may have ended on a border."""

    group: CacheGroup
    hashes: Sequence[BlockHash]
    keys: Sequence[BlockKey]
    """Their keys, if the prompt went on after the stretch."""
    keys_before: Sequence[BlockKey]
    """Their keys, if it ended with it."""
    last_tokens: TokenIds
    """The tokens of the last block of the stretch."""
    followers: list[tuple[CacheGroup, BlockHash]]
    """Blocks whose keys were chained to these, as if the prompt went on."""


class RankState:
    """The state of one rank."""

    __slots__ = (
        "chunk_blocks",
        "drops_last_block",
        "first_stores",
        "groups",
        "half_removed",
        "hidden",
        "inexact",
        "is_ordinary",
        "last_was_reuse_report",
        "loras",
        "lower_tier_is_pool",
        "observed",
        "placements",
        "recomputed_last_blocks",
        "removes_each_copy",
        "removes_last_copy_only",
        "reset_doubt",
        "restored_after_removal",
        "salted",
        "sends_reuse_reports",
        "sizes",
        "unsupported_groups",
    )

    def __init__(self) -> None:
        self.groups: list[CacheGroup] = []
        self.hidden = False
        self.is_ordinary = False
        """Whether one run of blocks from the first decides what the engine reuses, on each tier."""
        self.inexact: InexactReason | None = None
        self.observed: InexactReason | None = None
        """Why its engine's answers differ from its matches."""
        self.sizes: set[int] = set()
        """All block sizes in its events."""
        self.unsupported_groups: dict[int | None, str] = {}
        """Group index to the kind of the group."""
        self.loras: set[str] = set()
        self.salted = False
        """Whether it hashes more than tokens and LoRA names into blocks."""
        self.drops_last_block = False
        """EAGLE without lookahead hashing: the engine reuses one block less than it holds."""
        self.sends_reuse_reports = False
        self.last_was_reuse_report = False
        self.chunk_blocks = 0
        """Blocks that an offloading connector moves at a time; 0 while none was seen."""
        self.lower_tier_is_pool: bool | None = None
        """Whether a block pool offloads, or a connector that announces no reset; None while neither was seen."""
        self.reset_doubt: ResetDoubt | None = None
        """Blocks below the device that may be gone since a reset."""
        self.first_stores: deque[tuple[BlockHash | None, Sequence[BlockHash]]] | None = deque()
        """(parent, hashes) of the first stores on the device, until the size of chunks is known or nothing offloads."""
        self.placements: dict[BlockHash, Placement] = {}
        """Blocks of windows that may be one block further left: service/index/placements.py."""
        self.removes_each_copy = False
        """Whether removals of several copies of a block were seen."""
        self.removes_last_copy_only = False
        self.half_removed: set[BlockHash] = set()
        """Blocks of which a copy was removed and another is left."""
        self.recomputed_last_blocks = 0
        self.restored_after_removal = 0

    def empty(self) -> None:
        """Drops all blocks, and keeps what was learned about the engine."""
        self.groups = []
        self.placements = {}
        self.half_removed = set()
        self.reset_doubt = None
        self.salted = False
        if self.inexact is not None and not self.inexact.outlasts_clear:
            self.inexact = None

    def mark_inexact(self, reason: InexactReason) -> None:
        """Marks the rank; the first reason stays."""
        self.inexact = self.inexact or reason

    @property
    def primary(self) -> CacheGroup | None:
        """The group that lookups begin with: the first of full attention on the device, or else any."""
        groups = self.groups
        full = (group for group in groups if group.kind.needs is Needs.ALL and group.on_device)
        return next(full, groups[0] if groups else None)

    def update_ordinary(self) -> None:
        """Call it after a change of groups, chunks or EAGLE."""
        self.is_ordinary = (
            len(self.groups) == 1
            and self.groups[0].kind.needs is Needs.ALL
            and self.groups[0].on_device
            and self.chunk_blocks <= 1
            and not self.drops_last_block
        )

    @property
    def lacks_group(self) -> bool:
        """Whether a KV-cache group was not heard of yet, although one with a higher index was.

        Its blocks may be larger: a prompt that fills none of them is reused by no group.
        """
        indices = {group.index for group in self.groups} | self.unsupported_groups.keys()
        known = [index for index in indices if index is not None]
        return bool(known) and max(known) >= len(known)

    @property
    def has_doubts(self) -> bool:
        """Whether a removal may tell something of copies, or of where a window's blocks are."""
        return bool(self.placements or self.half_removed or self.removes_last_copy_only)

    def group_of(self, stored: Stored) -> CacheGroup | None:
        """The group of an event's blocks; None before its first, and for parts of blocks."""
        index, size, lookahead = stored.group, stored.block_size, stored.lookahead
        for group in self.groups:
            if group.block_size == size and group.index == index and group.lookahead == lookahead:
                return group
        return None

    def of_group(self, index: int | None) -> list[CacheGroup]:
        """The groups that an event without block size may speak of; all of them where it or they name none."""
        return [group for group in self.groups if None in (index, group.index) or index == group.index]

    def knows_all(self, stored: Stored) -> bool:
        """Whether every block that an event names has a key already."""
        groups = self.of_group(stored.group)
        return all(any(block_hash in group.hashes for group in groups) for block_hash in stored.hashes)

    @property
    def has_windows_alone(self) -> bool:
        """Whether no group names all blocks of a prompt."""
        return not any(group.kind.needs is Needs.ALL for group in self.groups)

    def key_of(self, block_hash: BlockHash, layout: BlockLayout) -> BlockKey | None:
        """The key of a block in any group of that layout: engines name a prefix alike in all groups that hold it."""
        for group in self.groups:
            if group.layout == layout and (key := group.hashes.get(block_hash)) is not None:
                return key
        return None
