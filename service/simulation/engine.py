"""The prefix cache of a simulated LLM engine: vLLM's block pool, one request at a time.

Source: vllm/v1/core/block_pool.py, vLLM 0.33."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash


@dataclass(frozen=True, slots=True)
class Served:
    """Effects of a request on the cache: tokens reused, and the events of each step that had any, as vLLM's maps."""

    cached_tokens: int
    batches: list[list[dict[str, Any]]]
    evicted: int


@dataclass(slots=True)
class SimulatedEngine:
    """Serves one request at a time from `blocks` physical blocks, one of which vLLM reserves.

    A block hash covers the block's tokens and all before them. A request reuses the longest cached prefix without its
    last token; new blocks replace the least recently used free ones, whose content is evicted.
    """

    blocks: int
    block_size: int = 16
    seed: int = 0
    """Seed of the block hashes, as PYTHONHASHSEED is for vLLM."""
    eagle: bool = False
    """Reuses one block less, as vLLM does with EAGLE."""
    _free: OrderedDict[int, None] = field(init=False)
    _hash_of: dict[int, int] = field(init=False, default_factory=dict)
    _holders: dict[int, list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._free = OrderedDict.fromkeys(range(1, self.blocks))

    @property
    def held(self) -> int:
        """Number of physical blocks with reusable content."""
        return len(self._hash_of)

    def held_hashes(self) -> list[int]:
        """The hash of each block with reusable content, duplicates included."""
        return list(self._hash_of.values())

    def cached_tokens(self, tokens: Sequence[int], salt: str | None = None) -> int:
        """Leading tokens of the prompt that are cached, in whole blocks."""
        return self.block_size * self._cached_blocks(self._hashes(tokens, salt))

    def serve(
        self, tokens: Sequence[int], output: Sequence[int] = (), chunk: int | None = None, salt: str | None = None
    ) -> Served:
        """Prefills `tokens`, at most `chunk` per step, and generates `output`. Raises ValueError if they do not fit."""
        everything = [*tokens, *output]
        hashes = self._hashes(everything, salt)
        reused = min(self._cached_blocks(hashes), (len(tokens) - 1) // self.block_size)
        if self.eagle:
            reused = max(0, reused - 1)
        # The last generated token is never computed, so its block is not complete.
        computed = len(everything) - bool(output)
        if -(-computed // self.block_size) > self.blocks - 1:
            raise ValueError(f"{computed} tokens do not fit into {self.blocks - 1} blocks of {self.block_size}")

        held = [self._holders[name][0] for name in hashes[:reused]]
        for block in held:
            del self._free[block]
        batches, evictions = [], 0
        for end in self._steps(reused * self.block_size, len(tokens), computed, chunk or computed):
            removed = self._allocate(held, end)
            stored = self._cache(everything, hashes, held, end, salt)
            evictions += len(removed)
            if events := removed + stored:
                batches.append(events)
        for block in reversed(held):
            self._free[block] = None
            if block not in self._hash_of:
                # It has no reusable content, so it is allocated first.
                self._free.move_to_end(block, last=False)
        return Served(reused * self.block_size, batches, evictions)

    def clear(self) -> list[dict[str, Any]]:
        """Empties the cache and returns its event."""
        self._hash_of.clear()
        self._holders.clear()
        self._free = OrderedDict.fromkeys(range(1, self.blocks))
        return [{"type": "AllBlocksCleared"}]

    @staticmethod
    def _steps(start: int, prompt: int, computed: int, chunk: int) -> list[int]:
        """The number of computed tokens after each step: the prompt in chunks, then one token at a time."""
        return [*range(start + chunk, prompt, chunk), prompt, *range(prompt + 1, computed + 1)]

    def _hashes(self, tokens: Sequence[int], salt: str | None) -> list[int]:
        data, width = memoryview(array("I", tokens)).cast("B"), 4 * self.block_size
        hashes, parent = [], xxhash.xxh3_64_intdigest(salt.encode(), self.seed) if salt else self.seed
        for start in range(0, len(data) - width + 1, width):
            parent = xxhash.xxh3_64_intdigest(data[start : start + width], parent)
            hashes.append(parent)
        return hashes

    def _cached_blocks(self, hashes: Sequence[int]) -> int:
        return next((index for index, name in enumerate(hashes) if name not in self._holders), len(hashes))

    def _allocate(self, held: list[int], end: int) -> list[dict[str, Any]]:
        removed = []
        while len(held) * self.block_size < end:
            block, _ = self._free.popitem(last=False)
            if (name := self._hash_of.pop(block, None)) is not None:
                self._holders[name].remove(block)
                if not self._holders[name]:
                    del self._holders[name]
                removed.append({"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU", "group_idx": 0})
            held.append(block)
        return removed

    def _cache(
        self, tokens: Sequence[int], hashes: Sequence[int], held: Sequence[int], end: int, salt: str | None
    ) -> list[dict[str, Any]]:
        full = end // self.block_size
        first = next((index for index in range(full) if held[index] not in self._hash_of), full)
        if first == full:
            return []
        for block, name in zip(held[first:full], hashes[first:full], strict=True):
            self._hash_of[block] = name
            self._holders.setdefault(name, []).append(block)
        return [
            {
                "type": "BlockStored",
                "block_hashes": hashes[first:full],
                "parent_block_hash": hashes[first - 1] if first else None,
                "token_ids": tokens[first * self.block_size : full * self.block_size],
                "block_size": self.block_size,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "extra_keys": [[salt] if salt and not block else None for block in range(first, full)],
                "group_idx": 0,
                "kv_cache_spec_kind": "full_attention",
            }
        ]
