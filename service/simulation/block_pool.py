"""The physical blocks of a simulated device: free blocks, their contents and the order of eviction.

Source: vllm/v1/core/block_pool.py, vLLM 0.33.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple


class Content(NamedTuple):
    """The reusable content of a block: a block hash in one KV-cache group."""

    group: int
    hash: int


class BlockPool:
    """A pool of `blocks` physical blocks, the first of which is reserved by vLLM. Several may have equal content."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._users: dict[int, int] = {}
        self._content: dict[int, Content] = {}
        self._copies: dict[Content, dict[int, None]] = {}
        self._free = OrderedDict.fromkeys(range(1, blocks))

    @property
    def free(self) -> int:
        """The number of blocks that no request uses."""
        return len(self._free)

    def find(self, content: Content) -> int | None:
        """The first block with this content; None if there is none."""
        return next(iter(self._copies.get(content, ())), None)

    def use(self, block: int) -> None:
        """Protects a block from eviction until a matching `give_back`."""
        self._users[block] = self._users.get(block, 0) + 1
        self._free.pop(block, None)

    def take(self) -> tuple[int, Content | None]:
        """Allocates the longest-free block; returns it and its evicted content. Raises KeyError if none is free."""
        block, _ = self._free.popitem(last=False)
        self._users[block] = 1
        evicted = self._content.pop(block, None)
        if evicted is not None:
            copies = self._copies[evicted]
            del copies[block]
            if not copies:
                del self._copies[evicted]
        return block, evicted

    def give_back(self, block: int) -> None:
        """Ends one use; an unused block is evicted after all other free blocks, or first if it has no content."""
        self._users[block] -= 1
        if not self._users[block]:
            del self._users[block]
            self._free[block] = None
            if block not in self._content:
                self._free.move_to_end(block, last=False)

    def fill(self, block: int, content: Content) -> None:
        self._content[block] = content
        self._copies.setdefault(content, {})[block] = None

    def holds(self, block: int) -> bool:
        return block in self._content

    def clear(self) -> bool:
        """Empties all blocks; False if a request uses one."""
        if self._users:
            return False
        self._content.clear()
        self._copies.clear()
        self._free = OrderedDict.fromkeys(range(1, self.blocks))
        return True
