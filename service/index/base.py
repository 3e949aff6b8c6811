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
    """Whether a `BlockStored` may be no store at all but a report of blocks that a request reused, which vLLM sends
    when asked to (kv_cache_report_mode "full") and which nothing but the event's place in its batch tells from a copy.
    """

    NO = 0
    POSSIBLE = auto()
    """It is one if the rank holds all of it, unless a request had to compute its last block anew."""
    FOLLOWED_BY_STORE = auto()
    """It is one if the rank holds all of it: the batch goes on to store what follows."""
    SAME_AS_PREVIOUS_GROUP = auto()
    """It is one if the last event of another kind was, which says the same of another KV-cache group."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """`BlockStored`: consecutive blocks of one chain that entered a rank's cache.

    `tokens` has len(hashes) * block_size ids, or none when only hashes were announced (offloading). Groups of another
    kind than full attention may announce fewer hashes than blocks: their last ones.
    `extras` has one entry per block: what the engine hashed into it besides tokens and LoRA name, or None.
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


class Removed(msgspec.Struct, frozen=True, gc=False):
    """`BlockRemoved`: each hash lost one copy on this tier."""

    hashes: Sequence[BlockHash]
    tier: Tier = Tier.GPU
    group: int | None = None


class Index(Protocol):
    """Which rank holds which block. Not safe for threads: one event loop owns it."""

    statistics: IndexStatistics

    @property
    def blocks(self) -> int:
        """How many blocks are held; a block counts once per rank, KV-cache group and tier."""
        ...

    def store(self, rank: Rank, stored: Stored) -> int:
        """Adds blocks; gives how many were left out because their parent or their tokens are unknown."""
        ...

    def remove(self, rank: Rank, removed: Removed) -> int:
        """Takes one copy of each block away; gives how many of the hashes were unknown."""
        ...

    def clear(self, rank: Rank) -> None:
        """Forgets all blocks of a rank, on every tier, at once for lookups; memory follows in `sweep`."""
        ...

    def hide(self, rank: Rank) -> None:
        """Takes a rank out of all matches; its blocks are kept and it stays in `ranks`."""
        ...

    def unhide(self, rank: Rank) -> None:
        """Puts a hidden rank back into matches."""
        ...

    def forget(self, rank: Rank) -> None:
        """Clears a rank and drops it from `ranks`."""
        ...

    def sweep(self, blocks: int) -> bool:
        """Frees what was cleared, at most that many blocks of it; True while more is left."""
        ...

    def match(self, prompt: Prompt) -> list[RankMatch]:
        """The ranks that hold a prefix of the prompt of one block or more, in no order."""
        ...

    def ranks(self) -> Iterable[RankBlocks]:
        """Every rank that was ever stored to and not forgotten."""
        ...

    def inexact_reason(self, rank: Rank) -> str | None:
        """Why the answers for a rank may differ from what its engine holds, apart from lost events; None if not."""
        ...

    def lora_model(self, lora_name: str) -> str | None:
        """The model for which some rank stored blocks under that LoRA, so that a request may name just the LoRA."""
        ...

    def loras(self) -> Mapping[str, str]:
        """LoRA name to the model that it was announced under."""
        ...
