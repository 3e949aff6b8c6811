"""What an index of KV blocks promises, and the values that go in and out of it."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from service.index.statistics import IndexStatistics

BlockHash: TypeAlias = int
"""An engine's own name for a block, in 64 bits with a sign: opaque, and unique only within one rank."""

BlockKey: TypeAlias = int
"""Our name for a block: a hash over its tokens and all that precede it; service/index/keys.py makes them."""

TokenIds: TypeAlias = "array[int]"
"""Token ids as unsigned 32-bit integers, typecode "I"."""


NAMELESS_LORA = "\0"
"""Starts the names of LoRAs that an engine numbers and does not name, which no request can name."""


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


class Prompt(msgspec.Struct, frozen=True):
    """A tokenized prompt, with all else that an engine hashes into its blocks.

    `pods` restricts the answer to those pods; None asks for all.
    """

    model: str
    tokens: TokenIds
    lora_name: str | None = None
    cache_salt: str | None = None
    pods: Collection[str] | None = None
    skips_cache: bool = False
    """Whether the engine computes all of it anew, as vLLM does for log probabilities of the prompt: nobody matches."""


class RankMatch(msgspec.Struct, frozen=True, gc=False):
    """How much of a prompt one rank holds, in tokens; each token is counted in the fastest tier that has it."""

    rank: Rank
    block_size: int
    tokens_by_tier: Mapping[Tier, int]

    @property
    def tokens(self) -> int:
        """The length of the prefix match in tokens, over all tiers."""
        return sum(self.tokens_by_tier.values())


@dataclass(frozen=True, slots=True)
class RankBlocks:
    """What one rank holds, for `/pods` and the metrics."""

    rank: Rank
    block_sizes: Sequence[int]
    blocks_by_tier: Mapping[Tier, int]
    unsupported_groups: Sequence[str] = field(default=())
    """Kinds of KV-cache groups that the rank announces and the index does not understand; they do not count."""
    inexact_reason: str | None = None
    """Why the answers for this rank may differ from what its engine holds, though no event was lost; None if not."""


class Reuse(IntEnum):
    """Whether a `BlockStored` may be a report of blocks that a request reused, as its place in the batch tells.

    service/index/reuse_reports.py has the rule.
    """

    NO = 0
    POSSIBLE = auto()
    FOLLOWED_BY_STORE = auto()
    """The batch goes on to store what follows."""
    SAME_AS_PREVIOUS_GROUP = auto()
    """It is one if the event before is one, which says the same of another KV-cache group."""


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
    """How many tokens past each block the engine hashes into it; `extras` holds them then."""
    reuse: Reuse = Reuse.NO
    hash_unit: int = 0
    """Greatest common divisor of the block sizes of all groups in the batch, in tokens; 0 where they do not differ."""
    counts_copies: bool = False
    """Whether the engine caches a block twice though it names no group, as vLLM before 0.20 does. SGLang never does, so
    that a block of its that is stored again is of another prompt."""
    is_pool: bool = False
    """Whether its lower tier is a block pool, which announces a reset of its own: SimpleCPUOffloadConnector."""


class Removed(msgspec.Struct, frozen=True, gc=False):
    """`BlockRemoved`: each hash lost one copy on this tier.

    `copies_left` is how many are left of each, where the engine says so.
    """

    hashes: Sequence[BlockHash]
    tier: Tier = Tier.GPU
    group: int | None = None
    copies_left: Sequence[int] = ()


class Index(Protocol):
    """Which rank holds which block.

    Not safe for threads: one event loop owns it, and nothing yields inside a call. Methods take ranks that they do not
    know, and never raise for what an event says. A rank comes into being with its first `store`. Times are for n
    blocks or hashes in the event or prompt; G is the number of KV-cache groups of the rank.
    """

    statistics: IndexStatistics

    @property
    def blocks(self) -> int:
        """How many blocks are held; a block counts once per rank, KV-cache group and tier."""
        ...

    def store(self, rank: Rank, stored: Stored) -> int:
        """Adds blocks; one that is held becomes a copy. O(n), and evicts the oldest blocks above the limit.

        Gives how many blocks were left out because their parent or their tokens are unknown; the rank is inexact then.
        """
        ...

    def remove(self, rank: Rank, removed: Removed) -> int:
        """Takes one copy of each block away; gives how many of the hashes were unknown. O(n * G)."""
        ...

    def engine_cleared(self, rank: Rank, pool: Tier | None = None) -> bool:
        """Takes `AllBlocksCleared`: a pool of blocks was emptied, the device's unless `pool` is a lower tier.

        `pool` is None where its place in the batch does not tell. True when nothing that was stored before is left, so
        that what was unknown before no longer matters. With blocks on lower tiers it is False, and the rank is inexact
        until other events tell whether those are still there: service/index/resets.py.
        """
        ...

    def clear(self, rank: Rank) -> None:
        """Forgets all blocks of a rank on every tier, and why it was inexact. O(G); `sweep` frees the memory.

        The rank stays in `ranks`, and hidden if it is.
        """
        ...

    def hide(self, rank: Rank) -> None:
        """Takes a rank out of all matches; its blocks are kept and updated, and it stays in `ranks`. O(1)."""
        ...

    def unhide(self, rank: Rank) -> None:
        """Puts a hidden rank back into matches. O(1)."""
        ...

    def forget(self, rank: Rank) -> None:
        """Clears a rank and drops it from `ranks`, with the LoRA names that it alone announced. O(G)."""
        ...

    def drop_last_block(self, rank: Rank) -> None:
        """Takes from every match of a rank the last block: EAGLE without lookahead hashing, which no event names."""
        ...

    def sweep(self, blocks: int) -> bool:
        """Frees the memory of cleared blocks, at most `blocks` of them; True while more is left."""
        ...

    def match(self, prompt: Prompt) -> list[RankMatch]:
        """The ranks that hold a prefix of the prompt of one block or more, in no order; changes nothing but statistics.

        O(n) probes per block layout for all ordinary ranks together, and O(n) per rank with several KV-cache groups.
        """
        ...

    def ranks(self) -> Iterable[RankBlocks]:
        """Every rank that was ever stored to and not forgotten, hidden ones included."""
        ...

    def inexact_reason(self, rank: Rank) -> str | None:
        """Why the answers for a rank may differ from what its engine reuses, apart from lost events; None if not.

        A sentence of service.index.inexact.InexactReason.
        """
        ...

    def serves(self, model: str) -> bool:
        """Whether some rank holds or held blocks of that model."""
        ...

    def lora_model(self, lora_name: str) -> str | None:
        """The model for which some rank stored blocks under that LoRA, so that a request may name just the LoRA.

        None for the name of a model that a rank serves.
        """
        ...

    def loras(self) -> Mapping[str, str]:
        """LoRA name to the model that it was announced under."""
        ...
