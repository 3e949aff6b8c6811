"""KV-cache groups of a simulated engine: the blocks that a group needs for a hit, and those that it keeps.

Source: vllm/v1/core/single_type_kv_cache_manager.py, vLLM 0.33 (reachable_block_mask, find_longest_cache_hit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class CacheGroup(NamedTuple):
    """Layers that share a block table."""

    kind: str = "full_attention"
    """`full_attention`, `sliding_window` or `mamba`, as events name it."""
    block_size: int = 16
    window: int = 0
    """Size of the sliding window in tokens."""
    retention: int | None = None
    """vLLM's prefix_cache_retention_interval in tokens: None keeps all blocks, 0 only the ends of prompts and shared
    prefixes."""

    @property
    def needed(self) -> int | None:
        """The number of blocks before a hit's end that must be cached; None for all."""
        match self.kind:
            case "full_attention":
                return None
            case "mamba":
                return 1
        return -(-(self.window - 1) // self.block_size)

    def reuses(self, tokens: int, cached: Callable[[int], bool]) -> bool:
        """Whether a prefix of this many tokens is reusable; `cached` says which blocks are cached."""
        end = tokens // self.block_size
        first = 0 if self.needed is None else max(0, end - self.needed)
        return all(cached(number) for number in range(first, end))

    def skipped(self, computed: int) -> int:
        """The number of leading blocks that no later token attends to after `computed` tokens."""
        match self.kind:
            case "full_attention":
                return 0
            case "mamba":
                return max(0, computed // self.block_size - 1)
        return max(0, computed - self.window + 1) // self.block_size

    def kept(self, start: int, end: int, alignment: int, boundaries: Iterable[int]) -> list[bool]:
        """Says for each block from `start` to `end` whether it is cached.

        `boundaries` are positions, in tokens, at which later requests can resume; hits are multiples of `alignment`.
        """
        if self.needed is None:
            return [True] * (end - start)
        mask = [False] * (end - start)
        segment = alignment if self.retention is None else self.retention
        if segment:
            size = segment // self.block_size
            if self.needed >= size:
                return [True] * (end - start)
            for number in range(start, end):
                mask[number - start] = number % size >= size - self.needed
        if self.retention is not None:
            for boundary in boundaries:
                last = boundary // alignment * alignment // self.block_size
                for number in range(max(start, last - self.needed), min(end, last)):
                    mask[number - start] = True
        return mask
