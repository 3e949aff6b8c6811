"""Blocks on lower tiers: what an offloading connector's events leave unsaid."""

from __future__ import annotations

from collections import deque
from math import gcd

from service.index.base import BlockHash, Stored
from service.index.cache_groups import RankState
from service.index.inexact_reasons import InexactReason

_FIRST_STORES = 64


def note_device_store(state: RankState, stored: Stored) -> None:
    """Remembers a store on the device, in case events of an offloading connector refer to it.

    A connector's first events come right after the first stores; without one nothing is remembered for long.
    """
    if state.first_stores is not None:
        if len(state.first_stores) == _FIRST_STORES:
            state.first_stores = None if not state.chunk_blocks else deque(state.first_stores, _FIRST_STORES)
        if state.first_stores is not None:
            state.first_stores.append((stored.parent, stored.hashes))


def learn_chunk(state: RankState, stored: Stored) -> None:
    """Learns from a store on a lower tier how many blocks the connector moves at a time.

    vLLM's OffloadingConnector keeps chunks of `block_size_factor` blocks and reuses whole chunks only. Its
    self-describing events name all blocks of a chunk, its plain ones the last: then the chunk is the greatest common
    divisor of the places in their prompts of all that it named.
    """
    if stored.group is None or state.chunk_blocks == 1:
        return
    if stored.tokens:
        if stored.block_size and stored.kind is not None:
            state.chunk_blocks = len(stored.hashes)
        return
    for block_hash in stored.hashes:
        depth = _depth(state, block_hash)
        if depth is None:
            if not state.chunk_blocks:
                state.mark_inexact(InexactReason.CHUNK_SIZE)
        else:
            state.chunk_blocks = gcd(state.chunk_blocks, depth)
    if state.chunk_blocks == 1:
        state.first_stores = None


def _depth(state: RankState, block_hash: BlockHash) -> int | None:
    """The place of a block in its prompt, from 1; None when that is not remembered."""
    wanted: BlockHash | None = block_hash
    depth = 0
    for parent, hashes in reversed(state.first_stores or ()):
        if wanted in (named := list(hashes)):
            depth += named.index(wanted) + 1
            wanted = parent
            if wanted is None:
                return depth
    return None
