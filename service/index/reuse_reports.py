"""Reports of reuse: vLLM announces blocks again that a request reused, when the request asks for it.

Such a report (kv_cache_report_mode "full") is a `BlockStored` like any other, and nothing but its place in the batch
tells it from a copy that was computed or fetched. An index that counts reports as copies keeps blocks for too long; one
that takes copies for reports loses blocks that the engine has.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.index.base import BlockHash, Reuse, Stored, Tier
from service.index.cache_groups import BlockLayout, CacheGroup
from service.index.chain import Chain
from service.index.full_attention import FullAttention
from service.index.hybrid import hybrid_match, scheduler_block
from service.index.inexact import InexactReason
from service.index.keys import block_keys, root_key


def is_report(cache: FullAttention, group: CacheGroup, stored: Stored) -> bool:
    """Whether a store that may be a report is taken for one.

    Nobody is taken to report before it was seen: until then a store of held blocks is a copy. Seen is a report that the
    same batch goes on from, since a request that computed it all would have stored it at once. From then on the rank is
    inexact, since each further one is a guess. A single scheduler block is a copy: it is what a prompt of whole blocks
    that is asked again computes.
    """
    state = group.state
    if stored.reuse is Reuse.SAME_AS_PREVIOUS_GROUP:
        return state.last_was_reuse_report
    if stored.hashes[0] not in group.hashes:
        state.last_was_reuse_report = False
        return False
    reusable = _is_reusable(cache, group, stored)
    single = len(stored.tokens) <= scheduler_block(state)
    state.last_was_reuse_report = reusable and (
        stored.reuse is Reuse.FOLLOWED_BY_STORE or (state.sends_reuse_reports and not single)
    )
    if state.last_was_reuse_report and not state.sends_reuse_reports:
        state.sends_reuse_reports = True
        state.mark_inexact(InexactReason.REUSE_REPORTS)
        for each in state.groups:
            _forget_ambiguous_copies(each)
    elif reusable and not state.last_was_reuse_report:
        for block_hash in stored.hashes:
            group.ambiguous_copies[block_hash] = single
    return state.last_was_reuse_report


def _is_reusable(cache: FullAttention, group: CacheGroup, stored: Stored) -> bool:
    """Whether the engine would have reused all blocks of an event."""

    def chain(layout: BlockLayout) -> Chain:
        root = root_key(group.rank.model, stored.lora_name, layout.unit)
        return Chain(block_keys(root, stored.tokens, layout.unit, stored.extras[:1]), cache.masks)

    state = group.state
    if state.is_ordinary:
        blocks = len(stored.hashes)
        return bool(chain(group.layout).window(True, blocks - 1, blocks, 1) & group.bit)
    match = hybrid_match(state, len(stored.tokens), chain)
    return match is not None and match.tokens_by_tier.get(Tier.GPU, 0) == len(stored.tokens)


def recomputed(group: CacheGroup, hashes: Sequence[BlockHash]) -> None:
    """Takes note of held blocks that were computed on the way to others: what they had before was no copy.

    The engine no longer had them, so what was taken for a copy was a report.
    """
    for block_hash in hashes:
        if group.ambiguous_copies.pop(block_hash, None) is not None:
            group.extra_copies.pop((block_hash, Tier.GPU), None)


def _forget_ambiguous_copies(group: CacheGroup) -> None:
    """Takes the copies of several blocks that were counted so far for the reports that they may have been."""
    for block_hash, single in list(group.ambiguous_copies.items()):
        if not single:
            del group.ambiguous_copies[block_hash]
            group.extra_copies.pop((block_hash, Tier.GPU), None)
