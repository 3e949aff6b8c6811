"""Which blocks of a stretch a group keeps that announces the tokens of all of them, but the hashes of some.

vLLM's rule (reachable_block_mask in v1/core/single_type_kv_cache_manager.py, prefix_cache_retention_interval 0): a
window keeps the blocks that it reaches back over from the last place where the same prompt can be resumed, the last
block border before the prompt's last token, and from where other groups had a longer prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.index.base import BlockHash, BlockKey, TokenIds
from service.index.cache_groups import CacheGroup, Needs, Placement


def place(
    group: CacheGroup, hashes: Sequence[BlockHash], keys: Sequence[BlockKey], last_tokens: TokenIds
) -> Sequence[BlockKey] | Placement | None:
    """The keys of the hashes, out of the `keys` of all blocks of the stretch; None when that cannot be told.

    Blocks are known by the hashes that other groups announced. Without such a group they are a run that ends with the
    stretch, or one block before it.
    """
    if not hashes or len(hashes) == len(keys):
        return keys[: len(hashes)]
    positions = {key: position for position, key in enumerate(keys)}
    known = [
        None if block_hash in group.state.placements else group.state.key_of(block_hash, group.layout)
        for block_hash in hashes
    ]
    pinned = [None if key is None else positions.get(key) for key in known]
    if None not in pinned:
        return [keys[position] for position in pinned if position is not None]
    if group.kind.needs is Needs.STATE and len(hashes) == 1:
        return [keys[-1]]
    between = _between(pinned, len(keys))
    if between is not None:
        return [keys[position] for position in between]
    if any(position is not None for position in pinned):
        return _in_a_run(pinned, keys)
    return _at_end(group, hashes, keys, last_tokens)


def _at_end(
    group: CacheGroup, hashes: Sequence[BlockHash], keys: Sequence[BlockKey], last_tokens: TokenIds
) -> Sequence[BlockKey] | Placement | None:
    """The last blocks of the stretch, or those before the last."""
    count, window = len(hashes), group.window_blocks
    if group.kind.needs is not Needs.WINDOW or count > window + 2:
        return None
    at_end = keys[len(keys) - count :]
    before_last = keys[len(keys) - count - 1 : -1]
    if count != min(window, len(keys) - 1):
        return at_end  # the prompt goes on, or it ended with as many blocks as no border leaves
    return Placement(group, hashes, at_end, before_last, last_tokens, [])


def _in_a_run(pinned: Sequence[int | None], keys: Sequence[BlockKey]) -> Sequence[BlockKey] | None:
    """The keys of a run of blocks some of which are known; None when those are not in one run."""
    offset = next(position - number for number, position in enumerate(pinned) if position is not None)
    in_one = all(position in (None, offset + number) for number, position in enumerate(pinned))
    return keys[offset : offset + len(pinned)] if in_one and 0 <= offset <= len(keys) - len(pinned) else None


def _between(pinned: Sequence[int | None], blocks: int) -> list[int] | None:
    """All positions, if those between known ones have room for no other choice."""
    found: list[int] = []
    unknown = 0
    before = -1
    for position in (*pinned, blocks):
        if position is None:
            unknown += 1
            continue
        if position - before - 1 != unknown and unknown:
            return None
        found.extend(range(before + 1, position) if unknown else ())
        found.append(position)
        unknown, before = 0, position
    return found[:-1]
