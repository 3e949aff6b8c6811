"""The blocks of a simulated device: which are free, which content each has, and in which order they are evicted.

Source: vllm/v1/core/block_pool.py, vLLM 0.33."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple


class Content(NamedTuple):
    """What a block holds that can be reused: a block hash in one KV-cache group."""

    group: int
    hash: int


class BlockPool:
    """`blocks` physical blocks, the first of which vLLM reserves. Several may have equal content."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._users: dict[int, int] = {}
        self._content: dict[int, Content] = {}
        self._copies: dict[Content, dict[int, None]] = {}
        self._free = OrderedDict.fromkeys(range(1, blocks))

    @property
    def free(self) -> int:
        """How many blocks no request uses."""
        return len(self._free)

    def find(self, content: Content) -> int | None:
        """A block with this content, the one that had it first; None if there is none."""
        return next(iter(self._copies.get(content, ())), None)

    def use(self, block: int) -> None:
        """Keeps a block from eviction until it is given back as often."""
        self._users[block] = self._users.get(block, 0) + 1
        self._free.pop(block, None)

    def take(self) -> tuple[int, Content | None]:
        """The block that is free for longest, and its content, which is evicted. Raises KeyError when none is free."""
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
        """Ends one use; an unused block is evicted after those that are free already, one without content before."""
        self._users[block] -= 1
        if not self._users[block]:
            del self._users[block]
            self._free[block] = None
            if block not in self._content:
                self._free.move_to_end(block, last=False)

    def fill(self, block: int, content: Content) -> None:
        """Says what a block holds."""
        self._content[block] = content
        self._copies.setdefault(content, {})[block] = None

    def holds(self, block: int) -> bool:
        """Whether a block has reusable content."""
        return block in self._content

    def clear(self) -> bool:
        """Empties all blocks; False when a request uses one."""
        if self._users:
            return False
        self._content.clear()
        self._copies.clear()
        self._free = OrderedDict.fromkeys(range(1, self.blocks))
        return True
