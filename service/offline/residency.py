"""Held blocks, their ages and chains, for full-attention groups only: only their blocks form prefixes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain
from typing import NamedTuple

from service.index.base import BlockHash, BlockKey, Rank, Stored, Tier
from service.index.keys import block_keys, root_key
from service.offline.log_histogram import LogHistogram


@dataclass(slots=True)
class Block:
    """A block of one rank: its position in its chain, and a bit mask of the tiers that hold it."""

    key: BlockKey
    parent: BlockHash | None
    tokens: int
    """Tokens of the chain up to the end of this block."""
    lora_name: str | None
    stored_at: float
    tiers: int = 0


class Prefix(NamedTuple):
    """A chain of held blocks from position 0; `own_blocks` are in no other chain of the rank."""

    rank: Rank
    lora_name: str | None
    tokens: int
    blocks: int
    own_blocks: int
    pods: int
    """Number of pods that hold the whole prefix."""


class Residency:
    def __init__(self) -> None:
        self.lifetimes = LogHistogram()
        """Lifetimes of evicted blocks: seconds from the first store on any tier to the last eviction."""
        self._ranks: dict[Rank, dict[BlockHash, Block]] = defaultdict(dict)
        self._groups: dict[Rank, set[int | None]] = defaultdict(set)

    def stored(self, rank: Rank, stored: Stored, now: float) -> None:
        if stored.kind not in (None, "full_attention"):
            return
        self._groups[rank].add(stored.group)
        blocks, bit = self._ranks[rank], 1 << stored.tier
        if not stored.tokens:
            for block_hash in stored.hashes:
                if block_hash in blocks:
                    blocks[block_hash].tiers |= bit
            return
        before = None if stored.parent is None else blocks.get(stored.parent)
        if before is None and stored.parent is not None:
            return
        root = before.key if before else root_key(rank.model, stored.lora_name, stored.block_size)
        keys = block_keys(root, stored.tokens, stored.block_size, stored.extras)
        parent, reach = stored.parent, before.tokens if before else 0
        for block_hash, key in zip(stored.hashes, keys, strict=True):
            reach += stored.block_size
            block = blocks.get(block_hash)
            if block is None:
                block = blocks[block_hash] = Block(key, parent, reach, stored.lora_name, now)
            block.tiers |= bit
            parent = block_hash

    def removed(self, rank: Rank, block_hash: BlockHash, tier: Tier, group: int | None, now: float) -> None:
        blocks = self._ranks[rank]
        block = blocks.get(block_hash)
        if block is None or group not in self._groups[rank]:
            return
        block.tiers &= ~(1 << tier)
        if not block.tiers:
            del blocks[block_hash]
            self.lifetimes.add(max(0.0, now - block.stored_at))

    def cleared(self, rank: Rank) -> None:
        self._ranks.pop(rank, None)

    def cleared_device(self, rank: Rank) -> None:
        """Removes all blocks of a rank from the device tier."""
        blocks = self._ranks.get(rank, {})
        for block_hash, block in list(blocks.items()):
            block.tiers &= ~(1 << Tier.GPU)
            if not block.tiers:
                del blocks[block_hash]

    def sharing(self) -> dict[int, int]:
        """Number of blocks by the number of pods that hold them."""
        return dict(sorted(Counter(len(pods) for pods in self._pods_by_key().values()).items()))

    def shared_blocks(self) -> dict[str, tuple[int, int]]:
        """By pod: the number of its distinct blocks, and how many of them another pod holds too."""
        counts: dict[str, list[int]] = {}
        for pods in self._pods_by_key().values():
            for pod in pods:
                count = counts.setdefault(pod, [0, 0])
                count[0] += 1
                count[1] += len(pods) > 1
        return {pod: (all_blocks, shared) for pod, (all_blocks, shared) in sorted(counts.items())}

    def longest_prefixes(self, count: int) -> list[Prefix]:
        """The longest chains without a missing block."""
        pods_by_key = self._pods_by_key()
        found = [Chains(rank, blocks).longest(count, pods_by_key) for rank, blocks in self._ranks.items()]
        return nlargest(count, chain.from_iterable(found), key=lambda prefix: prefix.tokens)

    def _pods_by_key(self) -> dict[BlockKey, set[str]]:
        pods_by_key: dict[BlockKey, set[str]] = defaultdict(set)
        for rank, blocks in self._ranks.items():
            for block in blocks.values():
                pods_by_key[block.key].add(rank.pod)
        return pods_by_key


class Chains:
    """The chains of one rank's blocks."""

    def __init__(self, rank: Rank, blocks: Mapping[BlockHash, Block]) -> None:
        self._rank = rank
        self._blocks = blocks
        self._followers = Counter(block.parent for block in blocks.values())
        self._complete: dict[BlockHash, bool] = {}

    def longest(self, count: int, pods_by_key: Mapping[BlockKey, Collection[str]]) -> list[Prefix]:
        """The longest chains without a missing block; `pods_by_key` has the pods that hold each block."""
        ends = (name for name in self._blocks if not self._followers[name] and self._is_complete(name))
        longest = nlargest(count, ends, key=lambda name: self._blocks[name].tokens)
        return [self._prefix(name, pods_by_key) for name in longest]

    def _is_complete(self, name: BlockHash) -> bool:
        """Whether all blocks before this one are held."""
        path: list[BlockHash] = []
        here: BlockHash | None = name
        while here is not None and here not in self._complete and here in self._blocks:
            path.append(here)
            here = self._blocks[here].parent
        complete = here is None or self._complete.get(here, False)
        self._complete.update((passed, complete) for passed in path)
        return complete

    def _prefix(self, end: BlockHash, pods_by_key: Mapping[BlockKey, Collection[str]]) -> Prefix:
        block, blocks, own, alone = self._blocks[end], 0, 0, True
        here: BlockHash | None = end
        while here is not None:
            alone = alone and (here == end or self._followers[here] == 1)
            blocks += 1
            own += alone
            here = self._blocks[here].parent
        return Prefix(self._rank, block.lora_name, block.tokens, blocks, own, len(pods_by_key[block.key]))
