"""The index in memory: takes events of ranks, and answers which ranks hold a prefix of a prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter

from service.index.base import (
    BlockHash,
    BlockKey,
    Matches,
    PackedBatches,
    Prompt,
    Rank,
    RankBlocks,
    RankMatch,
    Removed,
    Reuse,
    Stored,
    Tier,
)
from service.index.cache_groups import CacheGroup, RankState
from service.index.capture import capture_blocks, capture_rank
from service.index.consistency import disagreements
from service.index.copies import note_copies, remove_copy
from service.index.eviction import evict_to_limit
from service.index.full_attention import FullAttention
from service.index.group_creation import new_group
from service.index.inexact_reasons import InexactReason
from service.index.key_cache import KeyCache
from service.index.keys import block_keys, root_key
from service.index.lookup import Lookup
from service.index.lora_names import LoraNames
from service.index.offloading import learn_chunk, note_device_store
from service.index.placements import note_follower, settle_by_parent, some_keys
from service.index.plain_group import plain_group
from service.index.resets import empty, is_in_doubt, note_store, reset
from service.index.restore import RankRestorer
from service.index.reuse_reports import is_report
from service.index.snapshot_records import BlockRecord, RankRecord
from service.index.statistics import IndexStatistics
from service.native.backend import COMPILED, as_key_vector

_GPU, _NO = Tier.GPU, Reuse.NO  # to look up a member of an enumeration takes longer than to compare it

_MAX_LORAS = 10_000
"""Names of LoRAs of one rank; the blocks of further ones count for requests with `lora_name`."""
_MAX_NAME = 1024


class MemoryIndex:
    """Implements service.index.base.Index.

    Above `max_blocks` blocks the oldest are evicted. `key_cache_bytes` bounds the memory of block keys of prompts that
    were looked up.
    """

    def __init__(self, max_blocks: int, key_cache_bytes: int = 0) -> None:
        self.statistics = IndexStatistics()
        self._max_blocks = max_blocks
        self._cache = FullAttention()
        key_cache = KeyCache(0 if COMPILED else key_cache_bytes)  # compiled, keys are hashed faster than found
        self._lookup = Lookup(self._cache, key_cache)
        self._ranks: dict[Rank, RankState] = {}
        self._cleared: deque[CacheGroup] = deque()
        """Groups that nothing finds any more, and whose blocks wait for `sweep`."""
        self._era = max(1, max_blocks >> 10)
        self._admitted_before = 0
        """Admissions before this process, from which the ages of restored blocks are counted."""
        self._loras = LoraNames()

    @property
    def blocks(self) -> int:
        return self._cache.blocks

    def store(self, rank: Rank, stored: Stored) -> int:
        state = self._ranks.get(rank)
        if state is None:
            state = self._new_rank(rank)
        tier = stored.tier
        if tier is not _GPU:
            self._note_offloading(rank, state, stored)
            note_store(self._cache, state, stored)
        if not stored.tokens or (tier is not _GPU and state.knows_all(stored)):
            # Tokens of offloaded blocks come without what else was hashed into them: keys that are known are trusted.
            return self._store_by_hash(state, stored)
        group = state.group_of(stored) or new_group(self._cache, self._lookup, rank, state, stored)
        if group is None:
            return 0
        if tier is _GPU:
            if state.first_stores is not None:
                note_device_store(state, stored)
            if not group.on_device:
                with self._lookup.changing(rank.model, state):
                    group.on_device = True
        keys = self._keys(group, stored)
        if keys is None:
            return len(stored.hashes)
        if state.placements:
            note_follower(group, stored)
        if stored.reuse is _NO:
            state.last_was_reuse_report = False
        if stored.reuse is _NO or not is_report(self._cache, group, stored):
            copies = len(group.extra_copies)
            added = self._add(group, tier, as_key_vector(stored.hashes), keys)
            if added < len(keys) and len(group.extra_copies) != copies and tier is _GPU:
                note_copies(group, stored)
        return 0

    def _new_rank(self, rank: Rank) -> RankState:
        self._loras.add_rank(rank.model)
        state = self._ranks[rank] = RankState()
        return state

    def _keys(self, group: CacheGroup, stored: Stored) -> Sequence[BlockKey] | None:
        """The keys of an event's blocks; None when they cannot be told, with the rank marked inexact."""
        state, unit = group.state, group.layout.unit
        if stored.lora_name is not None and stored.lora_name not in state.loras:
            self._announce(group.rank, state, stored.lora_name)
        if stored.parent is None:
            parent: BlockKey | None = root_key(group.rank.model, stored.lora_name, unit)
            if state.salted and stored.tier is not _GPU and not stored.extras and group.on_device:
                state.mark_inexact(InexactReason.UNNAMED_SALT)
                return None
        else:
            parent = group.hashes.get(stored.parent)
            if parent is None:
                parent = state.key_of(stored.parent, group.layout)
            if state.placements:
                parent = settle_by_parent(self._cache, state, stored) or parent
        if parent is None:
            if stored.hashes:
                self.statistics.unknown_parents += len(stored.hashes)
                state.mark_inexact(InexactReason.UNKNOWN_PARENT)
            return None
        extras = stored.extras
        stride = 1 if stored.block_size == unit else stored.block_size // unit
        if extras:
            state.salted = state.salted or any(extras)
            extras = _per_unit(stored, stride)
        keys = block_keys(parent, stored.tokens, unit, extras)
        if stride > 1:
            keys = as_key_vector(list(keys[stride - 1 :: stride]))
        if len(keys) == len(stored.hashes):
            return keys
        some = some_keys(self._cache, group, stored, keys)
        if some is None:
            self._drop_incomplete_window(group)
        return some

    def _announce(self, rank: Rank, state: RankState, lora_name: str) -> None:
        """Lets requests name a LoRA. A publisher cannot fill the memory with names that it makes up."""
        if len(state.loras) < _MAX_LORAS and len(lora_name) <= _MAX_NAME:
            state.loras.add(lora_name)
            self._loras.add(rank.model, lora_name)

    def _drop_incomplete_window(self, group: CacheGroup) -> None:
        """Stops matching a group whose blocks are not all known: it would promise too little."""
        state = group.state
        state.mark_inexact(InexactReason.WINDOW_BLOCKS)
        with self._lookup.changing(group.rank.model, state):
            state.groups.remove(group)
        state.unsupported_groups[group.index] = "a window whose blocks are not all known"
        self._enqueue_for_sweep(group)

    def _note_offloading(self, rank: Rank, state: RankState, stored: Stored) -> None:
        before = state.chunk_blocks
        learn_chunk(state, stored)
        if (before > 1) != (state.chunk_blocks > 1):
            after, state.chunk_blocks = state.chunk_blocks, before
            with self._lookup.changing(rank.model, state):
                state.chunk_blocks = after

    def _store_by_hash(self, state: RankState, stored: Stored) -> int:
        """Adds a tier to blocks that are known; a block without tokens that is not known cannot be matched."""
        unknown = 0
        for block_hash in stored.hashes:
            for group in state.of_group(stored.group):
                key = group.hashes.get(block_hash)
                if key is not None:
                    self._add(group, stored.tier, as_key_vector([block_hash]), as_key_vector([key]))
                    break
            else:
                unknown += 1
        self.statistics.unknown_blocks += unknown
        if unknown and stored.group not in state.unsupported_groups:
            state.mark_inexact(InexactReason.UNKNOWN_OFFLOADED)
        return unknown

    def _add(self, group: CacheGroup, tier: Tier, hashes: Sequence[BlockHash], keys: Sequence[BlockKey]) -> int:
        """Adds blocks, and evicts others above the limit; both sequences are key vectors.

        Returns the number of blocks that the group did not hold on that tier.
        """
        added = self._cache.store(group, tier, hashes, keys)
        if added:
            self._admit(group, added)
        return added

    def _admit(self, group: CacheGroup, added: int) -> None:
        """Counts blocks that a group has more, and evicts others above the limit."""
        cache, statistics = self._cache, self.statistics
        group.ages.add((self._admitted_before + statistics.admissions) // self._era, added, group.sizes)
        statistics.admissions += added
        if cache.blocks > self._max_blocks:
            statistics.displaced += evict_to_limit(cache, self._ranks.values(), self._max_blocks)

    def remove(self, rank: Rank, removed: Removed) -> int:
        state = self._ranks.get(rank)
        if state is None:
            self.statistics.unknown_blocks += len(removed.hashes)
            return len(removed.hashes)
        unknown = 0
        groups = state.of_group(removed.group)
        for position, block_hash in enumerate(removed.hashes):
            for group in groups:
                if removed.copies_left or group.extra_copies or state.has_doubts:
                    left = removed.copies_left[position] if position < len(removed.copies_left) else None
                    known = block_hash in group.hashes and remove_copy(
                        self._cache, group, removed.tier, block_hash, left
                    )
                else:
                    known = self._cache.remove_last_copy(group, removed.tier, block_hash)
                if known:
                    if state.reset_doubt is not None and removed.tier is not _GPU:
                        state.reset_doubt.removed(group.bit, block_hash)
                    break
            else:
                unknown += 1
        self.statistics.evictions += len(removed.hashes) - unknown
        self.statistics.unknown_blocks += unknown
        return unknown

    def plain_group(self, rank: Rank) -> PackedBatches | None:
        state = self._ranks.get(rank)
        return None if state is None else plain_group(state, self._cache, self.statistics, self._admit)

    def clear(self, rank: Rank) -> None:
        state = self._ranks.get(rank)
        if state is None:
            return
        self._drop_groups(rank, state)
        new = self._ranks[rank] = RankState()
        new.drops_last_block, new.observed = state.drops_last_block, state.observed
        new.hidden, new.loras, new.sizes = state.hidden, state.loras, state.sizes

    def clear_tier(self, rank: Rank, tier: Tier) -> None:
        state = self._ranks.get(rank)
        for group in state.groups if state is not None else ():
            empty(self._cache, group, (tier,))

    def engine_cleared(self, rank: Rank, pool: Tier | None = None) -> bool:
        state = self._ranks.get(rank)
        if state is None:
            return True
        if not any(group.below_device for group in state.groups):
            self._drop_groups(rank, state)
            state.empty()
            return True
        reset(self._cache, state, pool)
        return False

    def _drop_groups(self, rank: Rank, state: RankState) -> None:
        self._lookup.remove(rank.model, state)
        for group in state.groups:
            self._enqueue_for_sweep(group)
        state.groups = []

    def _enqueue_for_sweep(self, group: CacheGroup) -> None:
        self._cache.retire(group)
        self.statistics.cleared += sum(group.sizes)
        self._cleared.append(group)

    def hide(self, rank: Rank) -> None:
        self._set_hidden(rank, True)

    def unhide(self, rank: Rank) -> None:
        self._set_hidden(rank, False)

    def _set_hidden(self, rank: Rank, hidden: bool) -> None:
        state = self._ranks.get(rank)
        if state is None or state.hidden == hidden:
            return
        with self._lookup.changing(rank.model, state):
            state.hidden = hidden

    def forget(self, rank: Rank) -> None:
        self.clear(rank)
        state = self._ranks.pop(rank, None)
        if state is not None:
            self._loras.remove_rank(rank.model, state.loras)

    def drop_last_block(self, rank: Rank) -> None:
        state = self._ranks.get(rank)
        if state is None:
            state = self._new_rank(rank)
        with self._lookup.changing(rank.model, state):
            state.drops_last_block = True

    def observe(self, rank: Rank, reason: InexactReason | None) -> None:
        state = self._ranks.get(rank)
        if state is not None:
            state.observed = reason

    def capture(self, rank: Rank) -> Iterator[RankRecord | BlockRecord]:
        state = self._ranks.get(rank)
        if state is None:
            return
        yield capture_rank(state, self._admitted_before + self.statistics.admissions, self._era)
        yield from capture_blocks(self._cache, state)

    def restorer(self, rank: Rank, record: RankRecord) -> RankRestorer:
        known = self._ranks.get(rank)
        if known is not None and known.groups:
            raise ValueError(f"{rank} has blocks already")
        self.forget(rank)
        state = self._new_rank(rank)
        state.hidden = True
        for name in record.loras:
            self._announce(rank, state, name)
        self._admitted_before = max(self._admitted_before, record.admissions - self.statistics.admissions)
        try:
            return RankRestorer(
                self._cache,
                rank,
                state,
                record,
                era=self._era,
                has_room=lambda blocks: self._cache.blocks + blocks <= self._max_blocks,
            )
        except BaseException:
            self.forget(rank)
            raise

    def sweep(self, blocks: int) -> bool:
        while self._cleared and blocks > 0:
            freed = self._cache.drain(self._cleared[0], blocks)
            if freed < blocks:
                self._cleared.popleft()
            blocks -= freed
        return bool(self._cleared)

    def match(self, prompt: Prompt) -> list[RankMatch]:
        started = perf_counter()
        matches = self._lookup.matches(prompt)
        if prompt.pods is not None:
            pods = frozenset(prompt.pods)
            matches = [match for match in matches if match.rank.pod in pods]
        self._count_lookup(started, found=bool(matches))
        return matches

    def match_together(self, prompt: Prompt) -> Matches:
        if prompt.pods is not None:
            return self._lookup.together([], self.match(prompt))
        started = perf_counter()
        runs, alone = self._lookup.runs(prompt)
        self._count_lookup(started, found=bool(runs or alone))
        return self._lookup.together(runs, alone)

    def _count_lookup(self, started: float, *, found: bool) -> None:
        self.statistics.lookups += 1
        self.statistics.lookup_hits += found
        self.statistics.lookup_seconds.observe(perf_counter() - started)

    def match_hashes(self, model: str, hashes: Sequence[BlockHash]) -> list[RankMatch]:
        matches = []
        for rank, state in self._ranks.items():
            primary = state.primary
            if rank.model != model or state.hidden or primary is None or not state.is_ordinary:
                continue
            tokens = self._cache.run_of_hashes(primary, hashes)
            if tokens:
                matches.append(RankMatch(rank, primary.block_size, tokens))
        return matches

    def ranks(self) -> Iterable[RankBlocks]:
        for rank, state in self._ranks.items():
            tiers = {tier: sum(group.sizes[tier] for group in state.groups) for tier in Tier}
            unsupported = sorted(set(state.unsupported_groups.values()))
            yield RankBlocks(rank, sorted(state.sizes), tiers, unsupported, self.inexact_reason(rank))

    def inexact_reason(self, rank: Rank) -> str | None:
        state = self._ranks.get(rank)
        if state is None:
            return None
        if state.inexact is None and state.placements:
            return InexactReason.WINDOW_BLOCKS.value
        if state.inexact is None and state.reset_doubt is not None and is_in_doubt(state):
            return InexactReason.CLEARED_TIER.value
        unsupported = InexactReason.UNSUPPORTED_GROUP if state.unsupported_groups else None
        unheard = InexactReason.UNHEARD_GROUP if state.lacks_group else None
        reason = state.inexact or state.observed or unsupported or unheard
        return reason and reason.value

    def serves(self, model: str) -> bool:
        """Whether some rank holds or held blocks of that model."""
        return self._loras.has_model(model)

    def lora_model(self, lora_name: str) -> str | None:
        return self._loras.model(lora_name)

    def loras(self) -> Mapping[str, str]:
        return self._loras.announced()

    def disagreements(self) -> list[str]:
        """A sentence for each broken invariant: for tests, since it walks over every block."""
        return list(disagreements(self._cache, self._ranks.values()))


def _per_unit(stored: Stored, stride: int) -> Sequence[bytes | None]:
    """The extras of each unit. An event that names some of its blocks' hashes names as many extras: the last."""
    extras = stored.extras
    unnamed = len(stored.tokens) // stored.block_size - len(extras)
    if unnamed > 0 and len(extras) == len(stored.hashes):
        extras = [*[None] * unnamed, *extras]
    if stride == 1:
        return extras
    return [each for extra in extras for each in (extra, *[None] * (stride - 1))]
