"""A tier below a simulated device: whole chunks of blocks, evicted least recently used first.

Source: vllm/distributed/kv_transfer/kv_connector/v1/offloading, vLLM 0.33."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

_MEDIUM = "CPU"


class Chunk:
    """Consecutive blocks of one chain; `users` is the number of requests that fetch it."""

    def __init__(self, hashes: Sequence[int], parent: int | None, tokens: Sequence[int]) -> None:
        self.hashes = list(hashes)
        self.parent = parent
        self.tokens = list(tokens)
        self.users = 0


class Offload:
    """Stores up to `capacity` chunks of `blocks_per_chunk` blocks of one full-attention group.

    Plain events name only the last hash of a chunk; with `describes`, they name all, with their tokens.
    """

    def __init__(self, capacity: int, blocks_per_chunk: int = 1, *, describes: bool = False) -> None:
        self.blocks_per_chunk = blocks_per_chunk
        self._capacity = capacity
        self._describes = describes
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()

    def clear(self) -> None:
        """Drops every chunk; nothing announces it."""
        self._chunks.clear()

    def matched(self, hashes: Sequence[int], blocks: int, most: int) -> int:
        """Extends a device hit of `blocks` blocks by whole chunks, up to `most` of the prompt's `hashes`.

        Returns the number of blocks of the extended hit; less than a chunk is not fetched.
        """
        size = self.blocks_per_chunk
        end = blocks // size
        while (end + 1) * size <= most and hashes[(end + 1) * size - 1] in self._chunks:
            end += 1
        return end * size if end * size - blocks >= size else blocks

    def fetch(self, hashes: Sequence[int], blocks: int, end: int) -> list[Chunk]:
        """Fetches the chunks of blocks `blocks` to `end`, protected from eviction until `fetched`."""
        size = self.blocks_per_chunk
        chunks = [self._chunks[hashes[(number + 1) * size - 1]] for number in range(blocks // size, end // size)]
        for chunk in chunks:
            chunk.users += 1
            self._chunks.move_to_end(chunk.hashes[-1])
        return chunks

    def fetched(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            chunk.users -= 1

    def store(self, chunks: Sequence[Chunk], extra: dict[str, Any]) -> list[dict[str, Any]]:
        """Stores new chunks if all of them fit; `extra` is added to describing events.

        Returns the events: evictions, then stores.
        """
        fresh = [chunk for chunk in chunks if chunk.hashes[-1] not in self._chunks]
        for chunk in chunks:
            if chunk.hashes[-1] in self._chunks:
                self._chunks.move_to_end(chunk.hashes[-1])
        evicted = self._evict(len(self._chunks) + len(fresh) - self._capacity)
        if evicted is None:
            return []
        for chunk in fresh:
            self._chunks[chunk.hashes[-1]] = chunk
        return evicted + [self._stored(chunk, extra) for chunk in fresh]

    def _evict(self, count: int) -> list[dict[str, Any]] | None:
        unused = [key for key, chunk in self._chunks.items() if not chunk.users]
        if count > len(unused):
            return None
        gone = [self._chunks.pop(key) for key in unused[: max(0, count)]]
        names = [name for chunk in gone for name in (chunk.hashes if self._describes else chunk.hashes[-1:])]
        removed = {"type": "BlockRemoved", "block_hashes": names, "medium": _MEDIUM, "group_idx": 0}
        return [removed] if names else []

    def _stored(self, chunk: Chunk, extra: dict[str, Any]) -> dict[str, Any]:
        event = {"type": "BlockStored", "medium": _MEDIUM, "group_idx": 0}
        if not self._describes:
            names = chunk.hashes[-1:]
            return event | {"block_hashes": names, "parent_block_hash": None, "token_ids": [], "block_size": 0}
        size = len(chunk.tokens) // len(chunk.hashes)
        described = {"parent_block_hash": chunk.parent, "token_ids": chunk.tokens, "block_size": size}
        return event | {"block_hashes": chunk.hashes, "kv_cache_spec_kind": "full_attention"} | described | extra
