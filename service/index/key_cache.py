"""Block keys of earlier token prefixes, in an LRU cache bounded in bytes."""

from __future__ import annotations

from collections.abc import Sequence

from service.byte_lru import ByteLru
from service.index.base import BlockKey, TokenIds
from service.index.keys import block_keys

_RUN_TOKENS = 1024
"""Tokens per cache entry."""

_TOKEN_BYTES = 4
_KEY_BYTES = 40
_ENTRY_BYTES = 250


class KeyCache:
    """The same keys as `service.index.keys.block_keys`, faster for a prompt that shares its start with an earlier one.

    Not thread-safe.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` is in bytes; 0 disables the cache."""
        self._runs: ByteLru[tuple[BlockKey, int, bytes], list[BlockKey]] = ByteLru(capacity, _size)

    @property
    def capacity(self) -> int:
        """Capacity in bytes."""
        return self._runs.capacity

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""
        return self._runs.size_bytes

    def block_keys(self, parent: BlockKey, tokens: TokenIds, block_size: int) -> Sequence[BlockKey]:
        """One key per whole block of `tokens`; the first is chained to `parent`."""
        if not self._runs.capacity:
            return block_keys(parent, tokens, block_size)
        run = max(1, _RUN_TOKENS // block_size) * block_size
        view = memoryview(tokens).cast("B")
        keys: list[BlockKey] = []
        for start in range(0, len(tokens) - run + 1, run):
            entry = (parent, block_size, bytes(view[start * _TOKEN_BYTES : (start + run) * _TOKEN_BYTES]))
            known = self._runs.get(entry)
            if known is None:
                known = list(block_keys(parent, tokens[start : start + run], block_size))
                self._runs.put(entry, known)
            else:
                self._runs.touch(entry)
            keys += known
            parent = known[-1]
        keys += block_keys(parent, tokens[len(keys) * block_size :], block_size)
        return keys


def _size(entry: tuple[BlockKey, int, bytes], keys: list[BlockKey]) -> int:
    return len(entry[2]) + len(keys) * _KEY_BYTES + _ENTRY_BYTES
