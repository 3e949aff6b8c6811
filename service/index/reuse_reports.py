"""Reports of reuse: on request, vLLM announces the blocks that a request reused.

Such a report (kv_cache_report_mode "full") is an ordinary `BlockStored`; only its place in the batch distinguishes it
from a copy that was computed or fetched. Counting reports as copies keeps blocks too long; taking copies for reports
loses blocks that the engine holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.index.base import BlockHash, Reuse, Stored, Tier
from service.index.cache_groups import BlockLayout, CacheGroup
from service.index.chain import Chain
from service.index.full_attention import FullAttention
from service.index.hybrid import hybrid_match, scheduler_block
from service.index.inexact_reasons import InexactReason
from service.index.keys import block_keys, root_key


def is_report(cache: FullAttention, group: CacheGroup, stored: Stored) -> bool:
    """Whether a store that may be a report is taken for one.

    Nobody is taken to report before it was seen: until then a store of held blocks is a copy. Seen is a report that the
    same batch goes on from, since a request that computed it all would have stored it at once. From then on the rank is
    inexact, since each further one is a guess. A single scheduler block is a copy: it is what a prompt of whole blocks
    that is asked again computes, also while another prompt goes on from it.
    """
    state = group.state
    if stored.reuse is Reuse.SAME_AS_PREVIOUS_GROUP:
        return state.last_was_reuse_report
    if stored.hashes[0] not in group.hashes:
        state.last_was_reuse_report = False
        return False
    reusable = _is_reusable(cache, group, stored)
    single = len(stored.tokens) <= scheduler_block(state)
    followed = stored.reuse is Reuse.FOLLOWED_BY_STORE
    was_seen = state.sends_reuse_reports
    state.last_was_reuse_report = reusable and ((followed or was_seen) if not single else (followed and was_seen))
    if state.last_was_reuse_report and not was_seen:
        state.sends_reuse_reports = True
        state.mark_inexact(InexactReason.REUSE_REPORTS)
        for each in state.groups:
            _forget_ambiguous_copies(each)
    elif reusable and not state.last_was_reuse_report:
        for block_hash in stored.hashes:
            group.ambiguous_copies[block_hash] = single and not followed
        if followed:
            state.mark_inexact(InexactReason.REUSE_REPORTS)
    return state.last_was_reuse_report


def _is_reusable(cache: FullAttention, group: CacheGroup, stored: Stored) -> bool:
    """Whether the engine could have reused all blocks of an event."""

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
    """Handles blocks that were computed again: the engine had lost them, so their earlier store was a report."""
    for block_hash in hashes:
        if group.ambiguous_copies.pop(block_hash, None) is not None:
            group.extra_copies.pop((block_hash, Tier.GPU), None)


def _forget_ambiguous_copies(group: CacheGroup) -> None:
    """Treats the copies of several blocks that were counted so far as reports."""
    for block_hash, single in list(group.ambiguous_copies.items()):
        if not single:
            del group.ambiguous_copies[block_hash]
            group.extra_copies.pop((block_hash, Tier.GPU), None)
