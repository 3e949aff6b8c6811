"""The index in memory: takes events of ranks, and answers which ranks hold a prefix of a prompt."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from math import gcd
from time import perf_counter

from service.index.base import (
    NAMELESS_LORA,
    BlockHash,
    BlockKey,
    Prompt,
    Rank,
    RankBlocks,
    RankMatch,
    Removed,
    Reuse,
    Stored,
    Tier,
)
from service.index.cache_groups import (
    BlockLayout,
    CacheGroup,
    Needs,
    Placement,
    RankState,
    UnsupportedGroupError,
    group_kind,
    is_local_attention,
)
from service.index.chain import Chain, bits, tiered_prefixes, tokens_by_tier
from service.index.consistency import disagreements
from service.index.eviction import oldest_group
from service.index.full_attention import FullAttention
from service.index.hybrid import hybrid_match, scheduler_block
from service.index.inexact import InexactReason
from service.index.key_cache import KeyCache
from service.index.keys import block_keys, prompt_keys, root_key
from service.index.offloading import learn_chunk, note_device_store
from service.index.reuse_reports import is_report, recomputed
from service.index.statistics import IndexStatistics
from service.index.windows import place
from service.native.backend import COMPILED, as_key_vector

_GPU, _NO = Tier.GPU, Reuse.NO  # to look up a member of an enumeration takes longer than to compare it
_MAX_HALF_REMOVED = 4096
_RESTORES_THAT_PROVE = 16


class MemoryIndex:
    """Implements service.index.base.Index.

    Above `max_blocks` blocks the oldest are evicted. `key_cache_bytes` bounds the memory of block keys of prompts that
    were looked up.
    """

    def __init__(self, max_blocks: int, key_cache_bytes: int = 0) -> None:
        self.statistics = IndexStatistics()
        self._max_blocks = max_blocks
        self._key_cache = KeyCache(0 if COMPILED else key_cache_bytes)  # compiled, keys are hashed faster than found
        self._cache = FullAttention()
        self._ranks: dict[Rank, RankState] = {}
        self._primaries: dict[str, dict[tuple[BlockLayout, int], int]] = {}
        """Per model, layout and stride, the mask of the groups of full attention that lookups begin with."""
        self._others: dict[str, list[RankState]] = {}
        """Per model, the ranks that are looked up one by one."""
        self._cleared: deque[CacheGroup] = deque()
        """Groups that nothing finds any more, and whose blocks wait for `sweep`."""
        self._era = max(1, max_blocks >> 10)
        self._loras: dict[str, dict[str, int]] = {}
        """LoRA name to models, with the number of ranks that announced it."""
        self._models: Counter[str] = Counter()
        """Ranks by model."""

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
        if not stored.tokens or (tier is not _GPU and state.knows_all(stored)):
            # Tokens of offloaded blocks come without what else was hashed into them: keys that are known are trusted.
            return self._store_by_hash(state, stored)
        group = state.group_of(stored) or self._new_group(rank, state, stored)
        if group is None:
            return 0
        if tier is _GPU:
            if state.first_stores is not None:
                note_device_store(state, stored)
            if not group.on_device:
                self._set_on_device(group)
        keys = self._keys(group, stored)
        if keys is None:
            return len(stored.hashes)
        if state.placements:
            self._note_follower(group, stored)
        if stored.reuse is _NO or not self._is_report(group, stored):
            self._add(group, tier, stored, keys)
        return 0

    def _new_rank(self, rank: Rank) -> RankState:
        self._models[rank.model] += 1
        state = self._ranks[rank] = RankState()
        return state

    def _keys(self, group: CacheGroup, stored: Stored) -> Sequence[BlockKey] | None:
        """The keys of an event's blocks; None when they cannot be told, with the rank marked inexact."""
        state, layout = group.state, group.layout
        if stored.lora_name is not None and stored.lora_name not in state.loras:
            self._add_lora(group.rank.model, state, stored.lora_name)
        if stored.parent is None:
            parent: BlockKey | None = root_key(group.rank.model, stored.lora_name, layout.unit)
            if state.salted and stored.tier is not _GPU and not stored.extras and group.on_device:
                state.mark_inexact(InexactReason.UNNAMED_SALT)
                return None
        else:
            parent = group.hashes.get(stored.parent)
            if parent is None:
                parent = state.key_of(stored.parent, layout)
            if state.placements:
                parent = self._settle_by_parent(state, stored) or parent
        if parent is None:
            if stored.hashes:
                self.statistics.unknown_parents += len(stored.hashes)
                state.mark_inexact(InexactReason.UNKNOWN_PARENT)
            return None
        extras = stored.extras
        stride = 1 if stored.block_size == layout.unit else stored.block_size // layout.unit
        if extras:
            state.salted = state.salted or any(extras)
            extras = _per_unit(stored, stride)
        keys = block_keys(parent, stored.tokens, layout.unit, extras)
        if stride > 1:
            keys = keys[stride - 1 :: stride]
        if len(keys) == len(stored.hashes):
            return keys if stride == 1 else as_key_vector(list(keys))
        return self._some_keys(group, stored, keys)

    def _some_keys(self, group: CacheGroup, stored: Stored, keys: Sequence[BlockKey]) -> Sequence[BlockKey] | None:
        """The keys of an event that names the hashes of some of its blocks."""
        if group.state.placements:
            self._settle_by_hash(group.state, stored.hashes, frozenset(keys))
        if group.state.salted and stored.parent is None and not any(stored.extras) and group.state.has_windows_alone:
            group.state.mark_inexact(
                InexactReason.UNNAMED_SALT
            )  # a salt is named with the first block, which is left out
        placed = place(group, stored.hashes, list(keys), stored.tokens[-stored.block_size :])
        if placed is None:
            self._drop_incomplete_window(group)
            return None
        if isinstance(placed, Placement):
            group.state.placements.update(dict.fromkeys(stored.hashes, placed))
            if any(other is not group for other in group.state.groups):
                group.state.mark_inexact(InexactReason.WINDOW_BLOCKS)  # prompts can share more in one than in the other
            placed = placed.keys
        return as_key_vector(list(placed))

    def _settle_by_parent(self, state: RankState, stored: Stored) -> BlockKey | None:
        """Lets an event that follows a window's last block tell where that is; gives the block's key.

        One that repeats what the stretch ended with comes before it; tokens of which nothing is kept are generated
        next. Any other may go on from the end of the stretch, or differ from it in its last block: its blocks are in
        doubt as well.
        """
        placement = state.placements.get(stored.parent) if stored.parent is not None else None
        if placement is None or stored.parent != placement.hashes[-1]:
            return None
        if stored.tokens[: placement.group.block_size] == placement.last_tokens:
            return self._settle(placement, before=True)
        return None if stored.hashes else self._settle(placement, before=False)

    def _note_follower(self, group: CacheGroup, stored: Stored) -> None:
        """Puts blocks in doubt that are chained to blocks in doubt."""
        placements = group.state.placements
        placement = placements.get(stored.parent) if stored.parent is not None else None
        if placement is None:
            return
        for block_hash in stored.hashes:
            if block_hash not in placements and block_hash not in group.hashes:
                placements[block_hash] = placement
                placement.followers.append((group, block_hash))

    def _settle_by_hash(self, state: RankState, hashes: Sequence[BlockHash], keys: frozenset[BlockKey]) -> None:
        """Lets another prompt that has some of a window's blocks tell where those are."""
        for block_hash in hashes:
            placement = state.placements.get(block_hash)
            if placement is not None and block_hash in placement.hashes:
                number = list(placement.hashes).index(block_hash)
                if (placement.keys[number] in keys) != (placement.keys_before[number] in keys):
                    self._settle(placement, before=placement.keys_before[number] in keys)

    def _settle(self, placement: Placement, *, before: bool) -> BlockKey:
        """Ends the doubt about where blocks are; gives the key of the last."""
        group = placement.group
        placements = group.state.placements
        keys = placement.keys_before if before else placement.keys
        for block_hash, key in zip(placement.hashes, keys, strict=True):
            held = placements.pop(block_hash, None) is not None
            if before and held and self._cache.remove_last_copy(group, _GPU, block_hash):
                self._cache.store(group, _GPU, as_key_vector([block_hash]), as_key_vector([key]))
        for follower, block_hash in placement.followers:
            if placements.pop(block_hash, None) is not None and before:
                self._cache.remove_last_copy(follower, _GPU, block_hash)
                group.state.mark_inexact(InexactReason.WINDOW_BLOCKS)
        return keys[-1]

    def _is_report(self, group: CacheGroup, stored: Stored) -> bool:
        state = group.state
        if stored.reuse is not Reuse.SAME_AS_PREVIOUS_GROUP and stored.hashes[0] not in group.hashes:
            state.last_was_reuse_report = False
            return False
        return is_report(
            group, stored, reusable=self._is_reusable(group, stored), scheduler_block=scheduler_block(state)
        )

    def _is_reusable(self, group: CacheGroup, stored: Stored) -> bool:
        """Whether the engine would have reused all blocks of an event."""

        def chain(layout: BlockLayout) -> Chain:
            root = root_key(group.rank.model, stored.lora_name, layout.unit)
            return Chain(block_keys(root, stored.tokens, layout.unit, stored.extras[:1]), self._cache.masks)

        state = group.state
        if state.is_ordinary:
            blocks = len(stored.hashes)
            return bool(chain(group.layout).window(True, blocks - 1, blocks, 1) & group.bit)
        match = hybrid_match(state, len(stored.tokens), chain)
        return match is not None and match.tokens_by_tier.get(_GPU, 0) == len(stored.tokens)

    def _note_offloading(self, rank: Rank, state: RankState, stored: Stored) -> None:
        before = state.chunk_blocks
        learn_chunk(state, stored)
        if (before > 1) != (state.chunk_blocks > 1):
            after, state.chunk_blocks = state.chunk_blocks, before
            self._remove_from_lookup(rank.model, state)
            state.chunk_blocks = after
            self._add_to_lookup(rank.model, state)

    def _store_by_hash(self, state: RankState, stored: Stored) -> int:
        """Adds a tier to blocks that are known; a block without tokens that is not known cannot be matched."""
        unknown = 0
        for block_hash in stored.hashes:
            for group in state.of_group(stored.group):
                key = group.hashes.get(block_hash)
                if key is not None:
                    self._cache.store(group, stored.tier, as_key_vector([block_hash]), as_key_vector([key]))
                    self._note_admissions(group, 1)
                    break
            else:
                unknown += 1
        self.statistics.unknown_blocks += unknown
        if unknown and stored.group not in state.unsupported_groups:
            state.mark_inexact(InexactReason.UNKNOWN_OFFLOADED)
        return unknown

    def _add(self, group: CacheGroup, tier: Tier, stored: Stored, keys: Sequence[BlockKey]) -> None:
        hashes = as_key_vector(stored.hashes)
        copies = len(group.extra_copies)
        added = self._cache.store(group, tier, hashes, keys)
        if added:
            self._note_admissions(group, added)
        if len(group.extra_copies) != copies and tier is _GPU:
            self._note_copies(group, stored)

    @staticmethod
    def _note_copies(group: CacheGroup, stored: Stored) -> None:
        """Learns from blocks that were stored although they are held."""
        state = group.state
        if stored.group is None and not stored.counts_copies:
            state.mark_inexact(InexactReason.SAME_HASH)
        if state.sends_reuse_reports:
            recomputed(group, list(stored.hashes[:-1]))
        if state.half_removed and not state.removes_each_copy:
            again = state.half_removed.intersection(stored.hashes[:-1])
            state.restored_after_removal += len(again)
            state.half_removed -= again
            if state.restored_after_removal >= _RESTORES_THAT_PROVE:
                state.removes_last_copy_only = True
                state.mark_inexact(InexactReason.LATE_REMOVALS)

    def _note_admissions(self, group: CacheGroup, added: int) -> None:
        statistics = self.statistics
        group.ages.add(statistics.admissions // self._era, added, group.sizes)
        statistics.admissions += added
        if self._cache.blocks > self._max_blocks:
            self._evict_to_limit()

    def _evict_to_limit(self) -> None:
        """Evicts the oldest blocks, down to slightly below the limit so that it is not reached again at once."""
        wanted = self._max_blocks - min(1024, self._max_blocks >> 10)
        while self._cache.blocks > wanted:
            groups = (group for state in self._ranks.values() for group in state.groups if group.hashes)
            oldest = oldest_group(groups)
            if oldest is None:
                break
            group, count = oldest
            self.statistics.displaced += self._cache.remove_oldest(group, min(count, self._cache.blocks - wanted))
            group.state.mark_inexact(InexactReason.EVICTED_HERE)

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
                    known = block_hash in group.hashes and self._remove(group, removed.tier, block_hash, left)
                else:
                    known = self._cache.remove_last_copy(group, removed.tier, block_hash)
                if known:
                    break
            else:
                unknown += 1
        self.statistics.evictions += len(removed.hashes) - unknown
        self.statistics.unknown_blocks += unknown
        return unknown

    def _remove(self, group: CacheGroup, tier: Tier, block_hash: BlockHash, left: int | None) -> bool:
        """Takes a copy of a block away, `left` of which are left if that is known, and learns from it."""
        state = group.state
        state.placements.pop(block_hash, None)
        if left is not None:
            return self._remove_all_but(group, tier, block_hash, left)
        if state.removes_last_copy_only:
            group.extra_copies.pop((block_hash, tier), None)
        elif (block_hash, tier) in group.extra_copies:
            if len(state.half_removed) < _MAX_HALF_REMOVED:
                state.half_removed.add(block_hash)
        elif block_hash in state.half_removed:
            state.removes_each_copy = True
            state.half_removed.clear()
        else:
            group.ambiguous_copies.pop(block_hash, None)
        return self._cache.remove(group, tier, block_hash)

    def _remove_all_but(self, group: CacheGroup, tier: Tier, block_hash: BlockHash, left: int) -> bool:
        group.extra_copies.pop((block_hash, tier), None)
        if not left:
            return self._cache.remove_last_copy(group, tier, block_hash)
        if left > 1:
            group.extra_copies[block_hash, tier] = left - 1
        return True

    def clear(self, rank: Rank) -> None:
        state = self._ranks.get(rank)
        if state is None:
            return
        self._drop_groups(rank, state)
        new = self._ranks[rank] = RankState()
        new.drops_last_block, new.hidden, new.loras, new.sizes = (
            state.drops_last_block,
            state.hidden,
            state.loras,
            state.sizes,
        )

    def engine_cleared(self, rank: Rank) -> bool:
        state = self._ranks.get(rank)
        if state is None:
            return True
        if not any(group.below_device for group in state.groups):
            self._drop_groups(rank, state)
            state.empty()
            return True
        state.mark_inexact(InexactReason.CLEARED_TIER)
        for group in state.groups:
            for block_hash in [block_hash for block_hash, _ in group.hashes.items()]:
                group.extra_copies.pop((block_hash, _GPU), None)
                self._cache.remove_last_copy(group, _GPU, block_hash)
        return False

    def _drop_groups(self, rank: Rank, state: RankState) -> None:
        self._remove_from_lookup(rank.model, state)
        for group in state.groups:
            self._enqueue_for_sweep(group)
        state.groups = []

    def hide(self, rank: Rank) -> None:
        self._set_hidden(rank, True)

    def unhide(self, rank: Rank) -> None:
        self._set_hidden(rank, False)

    def _set_hidden(self, rank: Rank, hidden: bool) -> None:
        state = self._ranks.get(rank)
        if state is None or state.hidden == hidden:
            return
        self._remove_from_lookup(rank.model, state)
        state.hidden = hidden
        self._add_to_lookup(rank.model, state)

    def forget(self, rank: Rank) -> None:
        self.clear(rank)
        state = self._ranks.pop(rank, None)
        if state is not None:
            self._models[rank.model] -= 1
            self._models += Counter()  # without those that have no rank left
        for name in state.loras if state else ():
            models = self._loras[name]
            models[rank.model] -= 1
            if not models[rank.model]:
                del models[rank.model]
            if not models:
                del self._loras[name]

    def drop_last_block(self, rank: Rank) -> None:
        state = self._ranks.get(rank)
        if state is None:
            state = self._new_rank(rank)
        self._remove_from_lookup(rank.model, state)
        state.drops_last_block = True
        self._add_to_lookup(rank.model, state)

    def sweep(self, blocks: int) -> bool:
        while self._cleared and blocks > 0:
            freed = self._cache.drain(self._cleared[0], blocks)
            if freed < blocks:
                self._cleared.popleft()
            blocks -= freed
        return bool(self._cleared)

    def match(self, prompt: Prompt) -> list[RankMatch]:
        started = perf_counter()
        matches = self._matches(prompt)
        if prompt.pods is not None:
            pods = frozenset(prompt.pods)
            matches = [match for match in matches if match.rank.pod in pods]
        self.statistics.lookups += 1
        self.statistics.lookup_hits += bool(matches)
        self.statistics.lookup_seconds.observe(perf_counter() - started)
        return matches

    def _matches(self, prompt: Prompt) -> list[RankMatch]:
        chains: dict[BlockLayout, Chain] = {}

        def chain(layout: BlockLayout) -> Chain:
            if layout not in chains:
                keys = prompt_keys(prompt, layout.unit, layout.lookahead, self._key_cache.block_keys)
                chains[layout] = Chain(keys, self._cache.masks)
            return chains[layout]

        matches: list[RankMatch] = []
        if prompt.skips_cache:
            return matches
        tokens = len(prompt.tokens)
        for (layout, stride), wanted in self._primaries.get(prompt.model, {}).items():
            if not wanted:
                continue
            keys, spans = chain(layout).strided(stride), None
            if self._cache.masks[Tier.CPU] or self._cache.masks[Tier.STORAGE]:
                ends, spans = tiered_prefixes(keys, self._cache.masks, wanted)
            else:
                ends = self._cache.match(keys, wanted)
            for blocks, mask in ends:
                size = layout.unit * stride
                on_device = {_GPU: blocks * size}  # one for all: there may be thousands of them
                for number in bits(mask):
                    group = self._cache.groups[number]
                    assert group is not None  # noqa: S101 - bits without a group are in no primaries
                    if not group.state.is_ordinary:
                        match = hybrid_match(group.state, tokens, chain)
                        matches += (match,) if match else ()
                    elif spans is None:
                        matches.append(RankMatch(group.rank, size, on_device))
                    else:
                        matches.append(RankMatch(group.rank, size, tokens_by_tier(spans, group.bit, blocks, size)))
        for state in self._others.get(prompt.model, ()):
            match = hybrid_match(state, tokens, chain)
            matches += (match,) if match else ()
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
        reason = state.inexact or (InexactReason.UNSUPPORTED_GROUP if state.unsupported_groups else None)
        return reason and reason.value

    def serves(self, model: str) -> bool:
        """Whether some rank holds or held blocks of that model."""
        return any(rank.model == model for rank in self._ranks)

    def lora_model(self, lora_name: str) -> str | None:
        models = self._loras.get(lora_name)
        return next(iter(models), None) if models and lora_name not in self._models else None

    def loras(self) -> Mapping[str, str]:
        names = {name: next(iter(models)) for name, models in self._loras.items() if name not in self._models}
        return {name: model for name, model in names.items() if not name.startswith(NAMELESS_LORA)}

    def disagreements(self) -> list[str]:
        """What does not fit together, a sentence each: for tests, since it walks over every block."""
        return list(disagreements(self._cache, self._ranks.values()))

    def _add_lora(self, model: str, state: RankState, name: str) -> None:
        state.loras.add(name)
        models = self._loras.setdefault(name, {})
        models[model] = models.get(model, 0) + 1

    def _new_group(self, rank: Rank, state: RankState, stored: Stored) -> CacheGroup | None:
        """The group of an event's blocks, which are its first or have another size; None when they do not count."""
        same = next((group for group in state.groups if group.index == stored.group and group.on_device), None)
        if stored.group in state.unsupported_groups:
            return None
        if same is not None and stored.tier is _GPU and stored.lookahead == same.layout.lookahead:
            return self._of_other_size(state, same, stored)
        try:
            kind = group_kind(stored)
        except UnsupportedGroupError as error:
            state.unsupported_groups[stored.group] = str(error)
            return None
        if is_local_attention(stored):
            state.mark_inexact(InexactReason.UNSUPPORTED_GROUP)
        layout = self._layout(state, stored)
        number = self._cache.free_bit()
        group = CacheGroup(rank, state, stored, bit=1 << number, kind=kind, layout=layout)
        group.on_device = stored.tier is _GPU
        self._cache.groups[number] = group
        self._remove_from_lookup(rank.model, state)
        state.sizes.add(stored.block_size)
        state.groups.append(group)
        self._add_to_lookup(rank.model, state)
        return group

    @staticmethod
    def _layout(state: RankState, stored: Stored) -> BlockLayout:
        """The layout of a new group: that of the engine's others where its blocks fit."""
        size = stored.block_size
        if stored.tier is not _GPU or stored.lookahead:
            return BlockLayout(size, stored.lookahead)
        for group in state.groups:
            if group.on_device and not group.layout.lookahead:
                if size % group.layout.unit == 0:
                    return group.layout
                state.mark_inexact(InexactReason.BLOCK_SIZES)
        return BlockLayout(gcd(size, stored.hash_unit))

    def _of_other_size(self, state: RankState, group: CacheGroup, stored: Stored) -> CacheGroup | None:
        """A group's blocks of another size than those before: parts of blocks, at the end of a prompt.

        With recurrent states vLLM reuses them; they count where what precedes them is known.
        """
        recurrent = any(each.kind.needs is Needs.STATE for each in state.groups)
        fits = stored.block_size % group.layout.unit == 0
        if stored.block_size > group.block_size and fits:
            self._remove_from_lookup(group.rank.model, state)
            group.block_size = stored.block_size
            state.sizes.add(stored.block_size)
            self._add_to_lookup(group.rank.model, state)
            if group.kind.needs is not Needs.STATE:
                state.mark_inexact(InexactReason.PARTIAL_BLOCKS)
            return group
        if not recurrent:
            return None
        if not fits:
            state.mark_inexact(InexactReason.PARTIAL_BLOCKS)
            return None
        return group

    def _set_on_device(self, group: CacheGroup) -> None:
        self._remove_from_lookup(group.rank.model, group.state)
        group.on_device = True
        self._add_to_lookup(group.rank.model, group.state)

    def _add_to_lookup(self, model: str, state: RankState) -> None:
        state.update_ordinary()
        place = self._lookup_place(state)
        if place is None:
            return
        if isinstance(place, CacheGroup):
            primaries = self._primaries.setdefault(model, {})
            key = place.layout, place.stride
            primaries[key] = primaries.get(key, 0) | place.bit
        else:
            self._others.setdefault(model, []).append(state)

    def _remove_from_lookup(self, model: str, state: RankState) -> None:
        place = self._lookup_place(state)
        if place is None:
            return
        if isinstance(place, CacheGroup):
            self._primaries[model][place.layout, place.stride] ^= place.bit
        else:
            self._others[model].remove(state)

    @staticmethod
    def _lookup_place(state: RankState) -> CacheGroup | RankState | None:
        """The group by which lookups find a rank, or the rank if it is looked up by itself; None if it is not found."""
        primary = state.primary
        if primary is None or state.hidden:
            return None
        by_itself = (
            primary.kind.needs is not Needs.ALL
            or state.chunk_blocks > 1
            or not all(group.on_device for group in state.groups)
        )
        return state if by_itself else primary

    def _drop_incomplete_window(self, group: CacheGroup) -> None:
        """Stops matching a group whose blocks are not all known: it would promise too little."""
        state = group.state
        state.mark_inexact(InexactReason.WINDOW_BLOCKS)
        self._remove_from_lookup(group.rank.model, state)
        state.groups.remove(group)
        self._add_to_lookup(group.rank.model, state)
        state.unsupported_groups[group.index] = "a window whose blocks are not all known"
        self._enqueue_for_sweep(group)

    def _enqueue_for_sweep(self, group: CacheGroup) -> None:
        self._cache.retire(group)
        self.statistics.cleared += sum(group.sizes)
        self._cleared.append(group)


def _per_unit(stored: Stored, stride: int) -> Sequence[bytes | None]:
    """What is hashed into each unit. An event that names some of its blocks' hashes names as many extras: the last."""
    extras = stored.extras
    unnamed = len(stored.tokens) // stored.block_size - len(extras)
    if unnamed > 0 and len(extras) == len(stored.hashes):
        extras = [*[None] * unnamed, *extras]
    if stride == 1:
        return extras
    return [each for extra in extras for each in (extra, *[None] * (stride - 1))]
