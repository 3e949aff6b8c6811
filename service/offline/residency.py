"""Which blocks are held, since when and in which chains; full attention only, since only its blocks form prefixes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain
from typing import NamedTuple

from service.index.base import BlockHash, BlockKey, Rank, Stored, Tier
from service.index.keys import block_keys, root_key
from service.offline.quantiles import Times


@dataclass(slots=True)
class Block:
    """A block of one rank: its place in its chain, and the tiers that hold it (a bit each)."""

    key: BlockKey
    parent: BlockHash | None
    tokens: int
    """Tokens of the chain up to its end."""
    lora_name: str | None
    born: float
    tiers: int = 0


class Prefix(NamedTuple):
    """A chain of held blocks from the first on. `own_blocks` are those that no other chain of the rank goes through."""

    rank: Rank
    lora_name: str | None
    tokens: int
    blocks: int
    own_blocks: int
    pods: int
    """How many pods hold all of it."""


class Residency:
    """Follows the blocks of all ranks."""

    def __init__(self) -> None:
        self.lifetimes = Times()
        """Of blocks that were evicted, from the first tier that they were on to the last."""
        self._ranks: dict[Rank, dict[BlockHash, Block]] = defaultdict(dict)
        self._groups: dict[Rank, set[int | None]] = defaultdict(set)

    def stored(self, rank: Rank, stored: Stored, now: float) -> None:
        """Takes blocks that a rank announced."""
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
        """Takes that a rank holds a block no longer on this tier."""
        blocks = self._ranks[rank]
        block = blocks.get(block_hash)
        if block is None or group not in self._groups[rank]:
            return
        block.tiers &= ~(1 << tier)
        if not block.tiers:
            del blocks[block_hash]
            self.lifetimes.add(max(0.0, now - block.born))

    def cleared(self, rank: Rank) -> None:
        """Takes that a rank holds nothing any more."""
        self._ranks.pop(rank, None)

    def sharing(self) -> dict[int, int]:
        """Of how many pods hold the same block: how many different blocks there are."""
        return dict(sorted(Counter(len(pods) for pods in self._holders().values()).items()))

    def shared_blocks(self) -> dict[str, tuple[int, int]]:
        """Of each pod: its different blocks, and how many of them another pod holds, too."""
        counts: dict[str, list[int]] = {}
        for pods in self._holders().values():
            for pod in pods:
                count = counts.setdefault(pod, [0, 0])
                count[0] += 1
                count[1] += len(pods) > 1
        return {pod: (all_blocks, shared) for pod, (all_blocks, shared) in sorted(counts.items())}

    def longest_prefixes(self, count: int) -> list[Prefix]:
        """The longest chains that are held without a hole."""
        holders = self._holders()
        found = [Chains(rank, blocks).longest(count, holders) for rank, blocks in self._ranks.items()]
        return nlargest(count, chain.from_iterable(found), key=lambda prefix: prefix.tokens)

    def _holders(self) -> dict[BlockKey, set[str]]:
        holders: dict[BlockKey, set[str]] = defaultdict(set)
        for rank, blocks in self._ranks.items():
            for block in blocks.values():
                holders[block.key].add(rank.pod)
        return holders


class Chains:
    """The chains of one rank's blocks."""

    def __init__(self, rank: Rank, blocks: Mapping[BlockHash, Block]) -> None:
        self._rank = rank
        self._blocks = blocks
        self._followers = Counter(block.parent for block in blocks.values())
        self._whole: dict[BlockHash, bool] = {}

    def longest(self, count: int, holders: Mapping[BlockKey, Collection[str]]) -> list[Prefix]:
        """The longest ones without a hole; `holders` says which pods hold a block."""
        ends = (name for name in self._blocks if not self._followers[name] and self._is_whole(name))
        longest = nlargest(count, ends, key=lambda name: self._blocks[name].tokens)
        return [self._prefix(name, holders) for name in longest]

    def _is_whole(self, name: BlockHash) -> bool:
        """Whether all that precedes a block is held, too."""
        path: list[BlockHash] = []
        here: BlockHash | None = name
        while here is not None and here not in self._whole and here in self._blocks:
            path.append(here)
            here = self._blocks[here].parent
        whole = here is None or self._whole.get(here, False)
        self._whole.update((passed, whole) for passed in path)
        return whole

    def _prefix(self, end: BlockHash, holders: Mapping[BlockKey, Collection[str]]) -> Prefix:
        block, blocks, own, alone = self._blocks[end], 0, 0, True
        here: BlockHash | None = end
        while here is not None:
            alone = alone and (here == end or self._followers[here] == 1)
            blocks += 1
            own += alone
            here = self._blocks[here].parent
        return Prefix(self._rank, block.lora_name, block.tokens, blocks, own, len(holders[block.key]))
