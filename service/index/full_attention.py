"""The core of the index: who holds which block, and how long a prefix each group holds.

One table per tier maps a block's key to a bitmask of the cache groups that hold the block. A key stands for a block and
all that precede it, so groups share an entry exactly if they hold the same prefix, and a lookup is one probe and one
AND per block, however many groups there are. Each group maps its engine's block hashes to keys, and counts copies.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.index.base import BlockHash, BlockKey, Tier
from service.index.cache_groups import CacheGroup
from service.index.inexact_reasons import InexactReason
from service.native.backend import GroupMasks

_GPU = Tier.GPU
_MAX_ALIASES = 100_000
"""Of one group: hashes of blocks that it holds under another hash. The rank is inexact, so that none is needed."""


class FullAttention:
    """Blocks of all cache groups. `blocks` is their number; one counts once per group and tier that has it."""

    def __init__(self) -> None:
        self.masks = tuple(GroupMasks() for _ in Tier)
        self.groups: list[CacheGroup | None] = []
        """The group of each bit."""
        self.blocks = 0
        self._free_bits: list[int] = []

    def free_bit(self) -> int:
        """Reserves a bit and returns its number; the caller sets `groups[number]`."""
        if self._free_bits:
            return self._free_bits.pop()
        self.groups.append(None)
        return len(self.groups) - 1

    def store(self, group: CacheGroup, tier: Tier, hashes: Sequence[BlockHash], keys: Sequence[BlockKey]) -> int:
        """Adds blocks; returns the number of those that the group did not hold on that tier. O(blocks).

        A block that is held already becomes a copy: engines compute a block again rather than share one in use.
        """
        added = len(hashes)
        known = self.masks[tier].add(group.bit, group.hashes, hashes, keys)
        if known:
            added -= len(known)
            for position in known:
                added += self._store_known(group, tier, hashes[position], keys[position])
        group.sizes[tier] += added
        self.blocks += added
        return added

    def _store_known(self, group: CacheGroup, tier: Tier, block_hash: BlockHash, key: BlockKey) -> bool:
        """Adds a block of which the group has the hash or the key; True if it did not hold it on this tier."""
        known_key = group.hashes.get(block_hash)
        if known_key is None:  # held under another hash
            if len(group.hashes) > sum(group.sizes) + _MAX_ALIASES:
                return False
            group.hashes.put(block_hash, key)
            group.alias_counts[key, tier] = group.alias_counts.get((key, tier), 0) + 1
            group.state.mark_inexact(InexactReason.SAME_TOKENS)
            return False
        if known_key != key and tier is _GPU:  # the engine's hash leaves out what tells the two prompts apart
            group.state.mark_inexact(InexactReason.SAME_HASH)
        if not self.masks[tier].get(known_key) & group.bit:
            self.masks[tier].set(group.bit, known_key)
            return True
        group.extra_copies[block_hash, tier] = group.extra_copies.get((block_hash, tier), 0) + 1
        return False

    def remove(self, group: CacheGroup, tier: Tier, block_hash: BlockHash) -> bool:
        """Removes one copy of a block from a tier; False if the group holds none there. O(1)."""
        if group.extra_copies and (copies := group.extra_copies.get((block_hash, tier))):
            if copies > 1:
                group.extra_copies[block_hash, tier] = copies - 1
            else:
                del group.extra_copies[block_hash, tier]
            return True
        return self.remove_last_copy(group, tier, block_hash)

    def remove_last_copy(self, group: CacheGroup, tier: Tier, block_hash: BlockHash) -> bool:
        """Removes a block from a tier with all its copies; False if the group holds none there."""
        key = group.hashes.get(block_hash)
        if key is None:
            return False
        if group.alias_counts and (aliases := group.alias_counts.pop((key, tier), 0)):
            if aliases > 1:
                group.alias_counts[key, tier] = aliases - 1
            group.hashes.forget(block_hash)
            return True
        if not self.masks[tier].discard(group.bit, key):
            return False
        group.sizes[tier] -= 1
        self.blocks -= 1
        gone = tier is _GPU and not group.below_device
        if gone or not any(masks.get(key) & group.bit for masks in self.masks):
            group.hashes.forget(block_hash)
        return True

    def remove_oldest(self, group: CacheGroup, count: int) -> int:
        """Evicts about `count` of the oldest blocks; returns their number. O(count)."""
        before = self.blocks
        if group.holds_each_block_once:
            keys = group.hashes.take_oldest(count)
            self.masks[_GPU].discard_all(group.bit, keys)
            group.sizes[_GPU] -= len(keys)
            self.blocks -= len(keys)
        else:
            for block_hash in group.hashes.oldest(count):
                for tier in Tier:
                    group.extra_copies.pop((block_hash, tier), None)
                    if block_hash in group.hashes:
                        self.remove_last_copy(group, tier, block_hash)
        return before - self.blocks

    def retire(self, group: CacheGroup) -> None:
        """Stops counting a group's blocks; `drain` frees their memory. O(1)."""
        self.blocks -= sum(group.sizes)
        group.plain = None

    def drain(self, group: CacheGroup, count: int) -> int:
        """Frees up to `count` blocks of a retired group; returns their number. If it is less, the bit is free, too."""
        keys = group.hashes.drain(count)
        for masks in self.masks:
            if masks:
                masks.discard_all(group.bit, keys)
        freed = len(keys)
        for counts in (group.extra_copies, group.alias_counts):
            while counts and freed < count:
                counts.popitem()
                freed += 1
        if freed < count:
            number = group.bit.bit_length() - 1
            self.groups[number] = None
            self._free_bits.append(number)
        return freed

    def run_of_hashes(self, group: CacheGroup, hashes: Sequence[BlockHash]) -> dict[Tier, int]:
        """The tokens of the run of blocks that a group holds, by tier: on the device first, then below it."""
        tokens: dict[Tier, int] = {}
        tiers = tuple(Tier)
        for block_hash in hashes:
            key = group.hashes.get(block_hash)
            held = [tier for tier in tiers if key is not None and self.masks[tier].get(key) & group.bit]
            if not held:
                break
            if held[0] is not _GPU:
                tiers = (Tier.CPU, Tier.STORAGE)  # an engine does not go back to the device
            tokens[held[0]] = tokens.get(held[0], 0) + group.block_size
        return tokens

    def match(self, keys: Sequence[BlockKey], wanted: int) -> list[tuple[int, int]]:
        """The lengths of the prefixes that the wanted groups hold on the device: (blocks, mask of the groups).

            `keys` is a key vector, `wanted` a mask. Omits groups without the first block. O(blocks), for any number of
        groups.
        """
        ends: list[tuple[int, int]] = []
        alive = wanted
        for position, still in (*self.masks[_GPU].prefix(keys, wanted), (len(keys), 0)):
            if still != alive and position:
                ends.append((position, alive ^ still))
            alive = still
        return ends
