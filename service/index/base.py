"""The interface of an index of KV blocks, and the types of its arguments and results."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum, auto
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from service.index.inexact_reasons import InexactReason
from service.index.snapshot_records import BlockRecord, RankRecord
from service.index.statistics import IndexStatistics
from service.native.backend import PodOrder

BlockHash: TypeAlias = int
"""An engine's own name for a block, in 64 bits with a sign: opaque, and unique only within one rank."""

BlockKey: TypeAlias = int
"""Our name for a block: a hash over its tokens and all that precede it; service/index/keys.py makes them."""

TokenIds: TypeAlias = "array[int]"
"""Token ids as unsigned 32-bit integers, typecode "I"."""


NAMELESS_LORA = "\0"
"""Prefix of the names of LoRAs that an engine only numbers; no request can name them."""


class Tier(IntEnum):
    """Where a block lives, fastest first."""

    GPU = 0
    CPU = 1
    STORAGE = 2


class Rank(NamedTuple):
    """One prefix cache: a data-parallel rank of a pod, for one model."""

    pod: str
    model: str
    number: int = 0


class Medium(NamedTuple):
    """An image, audio or video in a prompt: the engine's identifier, and the tokens that stand for it."""

    identifier: str
    offset: int
    length: int


class Prompt(msgspec.Struct, frozen=True):
    """A tokenized prompt, with all else that an engine hashes into its blocks.

    `pods` restricts the answer to those pods; None asks for all. `media` are in the order of their offsets, and do
    not overlap.
    """

    model: str
    tokens: TokenIds
    lora_name: str | None = None
    cache_salt: str | None = None
    pods: Collection[str] | None = None
    media: Sequence[Medium] = ()
    skips_cache: bool = False
    """Whether the engine ignores its cache, as vLLM does for log probabilities of the prompt: no rank matches."""


class RankMatch(msgspec.Struct, frozen=True, gc=False):
    """How much of a prompt one rank holds, in tokens; each token is counted in the fastest tier that has it."""

    rank: Rank
    block_size: int
    tokens_by_tier: Mapping[Tier, int]

    @property
    def tokens(self) -> int:
        """The length of the prefix match in tokens, over all tiers."""
        return sum(self.tokens_by_tier.values())


class Run(NamedTuple):
    """Ranks that hold as much of a prompt, on the same tiers."""

    groups: int
    """The mask of their groups."""
    block_size: int
    tokens_by_tier: Mapping[Tier, int]


class Matches(NamedTuple):
    """All ranks that hold a prefix of a prompt, without an object for each."""

    runs: Sequence[Run] = ()
    alone: Sequence[RankMatch] = ()
    """Ranks that are in no run."""
    ranks: Sequence[Rank] = ()
    """The rank of each group, by its bit in runs; another object after a change."""
    order: PodOrder = PodOrder([])
    """The pods of the groups in runs."""

    @property
    def longest(self) -> int:
        """The length of the longest prefix match in tokens."""
        in_runs = max((sum(run.tokens_by_tier.values()) for run in self.runs), default=0)
        return max(in_runs, max((match.tokens for match in self.alone), default=0))


class RankBlocks(msgspec.Struct, frozen=True):
    """The blocks of one rank, for `/pods` and the metrics."""

    rank: Rank
    block_sizes: Sequence[int]
    blocks_by_tier: Mapping[Tier, int]
    unsupported_groups: Sequence[str] = ()
    """Kinds of KV-cache groups that the rank announces and the index does not support; they are ignored."""
    inexact_reason: str | None = None
    """Why answers for this rank may differ from its engine although no event was lost; None if they are equal."""


class Reuse(IntEnum):
    """Whether a `BlockStored` may report reused blocks, judged by its place in the batch.

    service/index/reuse_reports.py has the rule.
    """

    NO = 0
    POSSIBLE = auto()
    FOLLOWED_BY_STORE = auto()
    """The same batch stores the blocks that follow."""
    SAME_AS_PREVIOUS_GROUP = auto()
    """A report exactly if the event before it is one, which names the same blocks in another KV-cache group."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """`BlockStored`: consecutive blocks of one chain that entered a rank's cache.

    `tokens` has len(hashes) * block_size ids, or none when only hashes were announced (offloading). Groups of another
    kind than full attention may announce fewer hashes than blocks: service/index/windows.py.
    `extras` has one entry per hash: what the engine hashed into the block besides tokens and LoRA name, or None.
    """

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    tokens: TokenIds
    block_size: int
    tier: Tier = Tier.GPU
    lora_name: str | None = None
    extras: Sequence[bytes | None] = ()
    group: int | None = None
    kind: str | None = None
    """`kv_cache_spec_kind` of the group: full_attention, sliding_window, mamba, …; None where events have no groups."""
    window: int | None = None
    """Tokens of a sliding window."""
    lookahead: int = 0
    """Number of tokens after each block that the engine hashes into it; `extras` holds them."""
    reuse: Reuse = Reuse.NO
    hash_unit: int = 0
    """Greatest common divisor of the block sizes of all groups in the batch, in tokens; 0 if all are equal."""
    counts_copies: bool = False
    """Whether the engine may cache one block twice without naming a group, as vLLM before 0.20. SGLang never does: its
    second store of a hash belongs to another prompt."""
    is_pool: bool = False
    """Whether its lower tier is a block pool, which announces a reset of its own: SimpleCPUOffloadConnector."""


class Removed(msgspec.Struct, frozen=True, gc=False):
    """`BlockRemoved`: each hash lost one copy on this tier.

    `copies_left` is the number of remaining copies of each, if the engine sends it.
    """

    hashes: Sequence[BlockHash]
    tier: Tier = Tier.GPU
    group: int | None = None
    copies_left: Sequence[int] = ()


class Restorer(Protocol):
    """A rank that is being built from the records of a snapshot.

    Methods raise ValueError, LookupError, TypeError or OverflowError for records that do not fit each other.
    """

    def add(self, record: BlockRecord) -> None:
        """Adds blocks, or what is known of them. O(size of the record)."""
        ...

    def finish(self) -> None: ...


class PackedBatches(Protocol):
    """Applies batches of one rank that need not be decoded for it.

    It is for a few batches in turn: from when it was given until `settle`, nothing else may change the rank.
    """

    def open(self, finish: Callable[[bytes, int], None]) -> Callable[[bytes, float], float | None]:
        """Gives a function that applies a batch as `store` and `remove` would, and gives its date (Unix seconds). O(n).

        Its arguments are the payload and the earliest date. None, without any effect, for a batch that is to be
        decoded, is dated before that or is of another rank. If only an event in the middle shows that the batch is to
        be decoded, `finish` is called with the payload and the number of events before; it settles and applies the
        others.
        """
        ...

    def settle(self) -> int:
        """Counts what was applied, and evicts blocks above the limit. Gives the number of events."""
        ...


class Index(Protocol):
    """Which rank holds which block.

    Not thread-safe: one event loop owns it. Methods accept unknown ranks, and never raise for the content of an event.
    The first `store` creates a rank. In complexities, n is the number of blocks or hashes in the event or prompt, and
    G the number of KV-cache groups of the rank.
    """

    statistics: IndexStatistics

    @property
    def blocks(self) -> int:
        """Number of blocks; a block counts once per rank, KV-cache group and tier."""
        ...

    def store(self, rank: Rank, stored: Stored) -> int:
        """Adds blocks; a block that is held already counts as a copy. O(n). Evicts the oldest blocks above the limit.

        Returns the number of ignored blocks, whose parent or tokens are unknown; the rank is inexact then.
        """
        ...

    def remove(self, rank: Rank, removed: Removed) -> int:
        """Removes one copy of each block; returns the number of unknown hashes. O(n * G)."""
        ...

    def plain_group(self, rank: Rank) -> PackedBatches | None:
        """The writer that applies the most common batches of a rank without decoding them; None while there is none."""
        ...

    def engine_cleared(self, rank: Rank, pool: Tier | None = None) -> bool:
        """Handles `AllBlocksCleared`: a block pool was emptied, the device's unless `pool` is a lower tier.

        `pool` is None if its place in the batch does not tell. True if the rank is empty, so that earlier unknowns no
        longer matter. With blocks on lower tiers it is False, and the rank is inexact until other events tell whether
        these blocks are still there: service/index/resets.py.
        """
        ...

    def clear_tier(self, rank: Rank, tier: Tier) -> None:
        """Forgets the blocks of a rank on one tier. O(blocks of the rank)."""
        ...

    def clear(self, rank: Rank) -> None:
        """Drops all blocks of a rank on every tier, and its inexact reason. O(G); `sweep` frees the memory.

        The rank stays in `ranks`; a hidden rank stays hidden.
        """
        ...

    def hide(self, rank: Rank) -> None:
        """Excludes a rank from all matches; its blocks are kept and updated, and it stays in `ranks`. O(1)."""
        ...

    def unhide(self, rank: Rank) -> None:
        """Includes a hidden rank in matches again. O(1)."""
        ...

    def forget(self, rank: Rank) -> None:
        """Clears a rank and drops it from `ranks`, with the LoRA names that it alone announced. O(G)."""
        ...

    def drop_last_block(self, rank: Rank) -> None:
        """Shortens every match of a rank by one block: EAGLE without lookahead hashing, which no event shows."""
        ...

    def observe(self, rank: Rank, reason: InexactReason | None) -> None:
        """Marks a known rank as inexact because its engine's answers differ from its matches; None withdraws that."""
        ...

    def capture(self, rank: Rank) -> Iterator[RankRecord | BlockRecord]:
        """All that is known of a rank, in slices of a few thousand blocks; nothing for an unknown rank.

        The slices belong together only if the rank does not change meanwhile.
        """
        ...

    def restorer(self, rank: Rank, record: RankRecord) -> Restorer:
        """Begins to build a rank from its first record; it is hidden.

        Raises ValueError if it has blocks already, or as Restorer.
        """
        ...

    def sweep(self, blocks: int) -> bool:
        """Frees the memory of up to `blocks` cleared blocks; True if more are left."""
        ...

    def match(self, prompt: Prompt) -> list[RankMatch]:
        """The ranks that hold at least the first block of the prompt, in no order; changes only statistics.

        O(n) probes per block layout for all ordinary ranks together, and O(n) per rank with several KV-cache groups.
        """
        ...

    def match_together(self, prompt: Prompt) -> Matches:
        """As `match`, in a form whose cost does not grow with the number of ordinary ranks."""
        ...

    def match_hashes(self, model: str, hashes: Sequence[BlockHash]) -> list[RankMatch]:
        """The ranks that hold at least the first of an engine's consecutive block hashes. O(n) per rank.

        Leaves out ranks with several KV-cache groups, of which one run of blocks does not tell enough.
        """
        ...

    def ranks(self) -> Iterable[RankBlocks]:
        """Every rank with a `store` since it was last forgotten, including hidden ones."""
        ...

    def inexact_reason(self, rank: Rank) -> str | None:
        """Why answers for a rank may differ from its engine, apart from lost events; None if they are equal.

        A sentence of service.index.inexact_reasons.InexactReason.
        """
        ...

    def serves(self, model: str) -> bool:
        """Whether some rank holds or held blocks of that model."""
        ...

    def lora_model(self, lora_name: str) -> str | None:
        """The model under which a rank stored blocks of this LoRA, so that a request may name the LoRA alone.

        None for the name of a model that a rank serves.
        """
        ...

    def loras(self) -> Mapping[str, str]:
        """The base model of each announced LoRA, by LoRA name."""
        ...
