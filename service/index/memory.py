"""An index in memory: for every block key a bitmask of who holds it, so that a lookup is one AND per block."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from time import perf_counter

from service.index.base import BlockHash, BlockKey, Prompt, Rank, RankBlocks, RankMatch, Removed, Reuse, Stored, Tier
from service.index.cache_groups import Cut, Holder, RankState, tail_blocks
from service.index.consistency import disagreements
from service.index.key_cache import KeyCache
from service.index.keys import block_keys, prompt_keys, root_key
from service.index.matching import Chain, bits, hybrid_match, prefix_match
from service.index.statistics import IndexStatistics
from service.native.backend import COMPILED, GroupMasks, as_key_vector

_GPU, _NO = Tier.GPU, Reuse.NO  # to find a member of an enumeration takes longer than to compare it
_UNKNOWN_PARENT = "blocks were left out because the block before them is unknown"
_SAME_TOKENS = "blocks of the same tokens have several hashes, and nothing says what sets them apart"
_DISPLACED = "blocks were let go to keep to INDEX_MAX_BLOCKS"
_NO_EXTRAS = "blocks were left out that may be salted"
_OFFLOADED_UNKNOWN = "blocks were offloaded of which only an unknown hash was said"
_OFFLOADED_IN_CHUNKS = "blocks were offloaded several at a time, and only the last one's hash was said"
_NOT_UNDERSTOOD = "its groups of a kind that is not understood do not count"
_SPARSE = "which blocks a window keeps cannot be told"
_ENDS_OF_BLOCKS = "parts of blocks were left out, which its engine can reuse"
_REUSE_GUESSED = "blocks were announced again; that these are reports of reuse and no copies is a guess"


class MemoryIndex:
    """Implements service.index.base.Index.

    `blocks` is how many blocks are held: a block counts once per rank, KV-cache group and tier that has it. Above
    `max_blocks` of them, those that came first go. `key_cache_bytes` bounds the memory of block keys of prompts that
    were looked up.
    """

    def __init__(self, max_blocks: int, key_cache_bytes: int = 0) -> None:
        self.statistics = IndexStatistics()
        self.blocks = 0
        self._max_blocks = max_blocks
        self._key_cache = KeyCache(0 if COMPILED else key_cache_bytes)  # compiled, keys are hashed faster than found
        self._holding = tuple(GroupMasks() for _ in Tier)
        self._ranks: dict[Rank, RankState] = {}
        self._primaries: dict[str, dict[Cut, int]] = {}
        """Per model and cut, the mask of the groups of full attention that lookups begin with."""
        self._windowed: dict[str, list[RankState]] = {}
        """Per model, the ranks that have no such group."""
        self._holders: list[Holder | None] = []
        """The holder that each bit stands for."""
        self._free: list[int] = []
        self._cleared: deque[Holder] = deque()
        """Holders that nothing finds any more, and whose blocks wait for `sweep`."""
        self._era = max(1, max_blocks >> 10)
        self._loras: dict[str, str] = {}

    def store(self, rank: Rank, stored: Stored) -> int:
        state = self._ranks.get(rank)
        if state is None:
            state = self._ranks[rank] = RankState()
        tier = stored.tier
        if not stored.tokens or (tier is not _GPU and state.knows_all(stored)):
            # Tokens of offloaded blocks come without what else was hashed into them, so what is known is trusted more.
            return self._store_by_hash(state, stored)
        holder = state.holder_of(stored) or self._new_holder(rank, state, stored)
        if holder is None:
            return 0
        keys = self._keys(rank, holder, stored)
        if keys is None:
            self._mistrust(rank, holder)
            return len(stored.hashes)
        if stored.reuse is _NO or not self._reports_reuse(holder, stored, keys):
            self._add(holder, tier, stored.hashes, keys)
        return 0

    def _keys(self, rank: Rank, holder: Holder, stored: Stored) -> Sequence[BlockKey] | None:
        """The keys of an event's blocks; None when they cannot be told, with the rank's inexact reason set."""
        state = holder.state
        if stored.lora_name is not None:
            self._loras.setdefault(stored.lora_name, rank.model)
        if stored.parent is None:
            parent: BlockKey | None = root_key(rank.model, stored.lora_name, stored.block_size)
            if state.salted and stored.tier is not _GPU and not stored.extras:
                state.inexact_reason = state.inexact_reason or _NO_EXTRAS
                return None
        else:
            parent = holder.keys.get(stored.parent)
            if parent is None:
                parent = state.known(stored.parent, holder.cut)
        if parent is None:
            self.statistics.unknown_parents += len(stored.hashes)
            state.inexact_reason = state.inexact_reason or _UNKNOWN_PARENT
            return None
        extras, hashes = stored.extras, stored.hashes
        if extras:
            state.salted |= any(extras)
        keys = block_keys(parent, stored.tokens, stored.block_size, extras)
        if len(keys) == len(hashes):
            return keys
        some = _keys_of_some(hashes, keys, holder)
        if some is None:
            state.inexact_reason = state.inexact_reason or _SPARSE
            return None
        return as_key_vector(some)

    def _reports_reuse(self, holder: Holder, stored: Stored, keys: Sequence[BlockKey]) -> bool:
        """Whether a store that may be a report of reuse is one, as far as can be told.

        A single block is as likely a copy: a prompt of one block that is asked again. Taking a report for a copy keeps
        a block too long; taking a copy for a report may lose a whole chain.
        """
        state = holder.state
        if stored.reuse is Reuse.SAME_AS_PREVIOUS_GROUP:
            return state.reported
        state.reported = self._would_reuse(holder, stored, keys)
        if state.reported and stored.reuse is Reuse.FOLLOWED_BY_STORE:
            state.reports = True
            state.inexact_reason = state.inexact_reason or (_REUSE_GUESSED if holder.doubts or holder.copies else None)
        elif state.reported:
            state.reported = len(keys) > 1
            if not state.reported:
                holder.doubts.update(stored.hashes)
            if state.reported or state.reports:
                state.inexact_reason = state.inexact_reason or _REUSE_GUESSED
        return state.reported

    def _would_reuse(self, holder: Holder, stored: Stored, keys: Sequence[BlockKey]) -> bool:
        if not holder.state.hybrid:
            return all(self._holding[stored.tier].get(key) & holder.bit for key in keys)

        def chain(cut: Cut) -> Chain:
            root = root_key(holder.rank.model, stored.lora_name, cut.block_size)
            return Chain(block_keys(root, stored.tokens, cut.block_size, stored.extras[:1]), self._holding)

        return any(
            match.tokens == len(stored.tokens) for match in hybrid_match(holder.state, len(stored.tokens), chain)
        )

    def _store_by_hash(self, state: RankState, stored: Stored) -> int:
        """Adds a tier to blocks that are known; what comes with no tokens and is not known cannot be matched."""
        unknown = 0
        for block_hash in stored.hashes:
            for holder in state.of_group(stored.group):
                key = holder.keys.get(block_hash)
                if key is not None:
                    if not stored.tokens and stored.block_size > holder.cut.block_size:
                        state.inexact_reason = state.inexact_reason or _OFFLOADED_IN_CHUNKS
                    self._add(holder, stored.tier, (block_hash,), as_key_vector([key]))
                    break
            else:
                unknown += 1
        self.statistics.unknown_blocks += unknown
        if unknown and stored.group not in state.unsupported_groups:
            state.inexact_reason = state.inexact_reason or _OFFLOADED_UNKNOWN
        return unknown

    def _add(self, holder: Holder, tier: Tier, hashes: Sequence[BlockHash], keys: Sequence[BlockKey]) -> None:
        """Adds blocks; `keys` is a run."""
        hashes = as_key_vector(hashes)
        added = len(hashes)
        left_out = self._holding[tier].add(holder.bit, holder.keys, hashes, keys)
        if left_out:
            added -= len(left_out)
            for position in left_out:
                last = position == len(hashes) - 1
                added += self._add_known(holder, tier, hashes[position], keys[position], last=last)
        if added:
            statistics, sizes = self.statistics, holder.sizes
            sizes[tier] += added
            holder.ages.add(statistics.admissions // self._era, added, sizes)
            statistics.admissions += added
            self.blocks += added
            if self.blocks > self._max_blocks:
                self._displace()

    def _add_known(self, holder: Holder, tier: Tier, block_hash: BlockHash, own_key: BlockKey, *, last: bool) -> bool:
        """Adds a block that the holder names, or has under another name; True if one more is held on this tier."""
        names, holding = holder.keys, self._holding[tier]
        known = names.get(block_hash)
        key = own_key if known is None else known  # a name keeps the key it was first given
        if not holding.get(key) & holder.bit:
            holding.set(holder.bit, key)
            return True
        if known is None:
            names.put(block_hash, key)
            holder.doubles[key, tier] = holder.doubles.get((key, tier), 0) + 1
            holder.state.inexact_reason = holder.state.inexact_reason or _SAME_TOKENS
        elif block_hash in holder.doubts and holder.state.reports and not last:
            # Computed anew on the way to other blocks: the engine no longer had it, so it was no copy before.
            holder.doubts.discard(block_hash)
            holder.copies.pop((block_hash, tier), None)
        else:
            holder.copies[block_hash, tier] = holder.copies.get((block_hash, tier), 0) + 1
            if holder.state.reports and tier is Tier.GPU:  # a step of several requests shows them less clearly
                holder.state.inexact_reason = holder.state.inexact_reason or _REUSE_GUESSED
        return False

    def remove(self, rank: Rank, removed: Removed) -> int:
        state = self._ranks.get(rank)
        if state is None:
            self.statistics.unknown_blocks += len(removed.hashes)
            return len(removed.hashes)
        holders = state.of_group(removed.group)
        unknown = 0
        for block_hash in removed.hashes:
            for holder in holders:
                if block_hash in holder.keys and self._remove(holder, removed.tier, block_hash):
                    break
            else:
                unknown += 1
        self.statistics.evictions += len(removed.hashes) - unknown
        self.statistics.unknown_blocks += unknown
        return unknown

    def _remove(self, holder: Holder, tier: Tier, block_hash: BlockHash) -> bool:
        copies = holder.copies.get((block_hash, tier), 0) if holder.copies else 0
        if copies > 1:
            holder.copies[block_hash, tier] = copies - 1
        elif copies:
            del holder.copies[block_hash, tier]
        else:
            return self._let_go(holder, tier, block_hash)
        return True

    def _let_go(self, holder: Holder, tier: Tier, block_hash: BlockHash) -> bool:
        """Takes the last copy of a block; False when there is none on this tier."""
        key = holder.keys.get(block_hash)
        holding, bit = self._holding[tier], holder.bit
        if key is None or not holding.get(key) & bit:
            return False
        if doubles := holder.doubles.pop((key, tier), 0) if holder.doubles else 0:
            if doubles > 1:
                holder.doubles[key, tier] = doubles - 1
            holder.keys.forget(block_hash)
            return True
        holding.discard(bit, key)
        holder.sizes[tier] -= 1
        self.blocks -= 1
        if not any(holder.sizes[other] and self._holding[other].get(key) & bit for other in Tier):
            holder.keys.forget(block_hash)
            holder.doubts.discard(block_hash)
        return True

    def _displace(self) -> None:
        """Lets go of the oldest blocks, and of some more at once when there are millions."""
        wanted = self._max_blocks - min(1024, self._max_blocks >> 10)
        while self.blocks > wanted:
            held = [holder for state in self._ranks.values() for holder in state.holders if holder.keys]
            ages = {holder: age for holder in held if (age := holder.ages.oldest(sum(holder.sizes)))}
            holder = min(ages, key=lambda holder: ages[holder][0])
            before = self.blocks
            self._displace_oldest(holder, min(ages[holder][1], self.blocks - wanted))
            self.statistics.displaced += before - self.blocks
            holder.state.inexact_reason = holder.state.inexact_reason or _DISPLACED

    def _displace_oldest(self, holder: Holder, blocks: int) -> None:
        if holder.is_simple:
            keys = holder.keys.take_oldest(blocks)
            self._holding[Tier.GPU].discard_all(holder.bit, keys)
            holder.sizes[Tier.GPU] -= len(keys)
            self.blocks -= len(keys)
            return
        for block_hash in holder.keys.oldest(blocks):
            for tier in Tier:
                holder.copies.pop((block_hash, tier), None)
                if block_hash in holder.keys:
                    self._let_go(holder, tier, block_hash)

    def clear(self, rank: Rank) -> None:
        state = self._ranks.get(rank)
        if state is None:
            return
        self._unlist(rank.model, state)
        for holder in state.holders:
            self._retire(holder)
        state.holders = []
        state.inexact_reason = None
        state.unsupported_groups = {}
        state.reports = False
        state.salted = False

    def hide(self, rank: Rank) -> None:
        self._set_hidden(rank, True)

    def unhide(self, rank: Rank) -> None:
        self._set_hidden(rank, False)

    def _set_hidden(self, rank: Rank, hidden: bool) -> None:
        state = self._ranks.get(rank)
        if state is None or state.hidden == hidden:
            return
        self._unlist(rank.model, state)
        state.hidden = hidden
        self._list(rank.model, state)

    def forget(self, rank: Rank) -> None:
        self.clear(rank)
        self._ranks.pop(rank, None)

    def sweep(self, blocks: int) -> bool:
        while self._cleared and blocks > 0:
            holder = self._cleared[0]
            keys = holder.keys.drain(blocks)
            for holding in self._holding:
                if holding:
                    holding.discard_all(holder.bit, keys)
            blocks -= len(keys)
            for counts in (holder.copies, holder.doubles):
                while counts and blocks > 0:
                    counts.popitem()
                    blocks -= 1
            if not (holder.keys or holder.copies or holder.doubles):
                self._cleared.popleft()
                number = holder.bit.bit_length() - 1
                self._holders[number] = None
                self._free.append(number)
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
        chains: dict[Cut, Chain] = {}

        def chain(cut: Cut) -> Chain:
            if cut not in chains:
                chains[cut] = Chain(
                    prompt_keys(prompt, cut.block_size, cut.lookahead, self._key_cache.block_keys), self._holding
                )
            return chains[cut]

        matches: list[RankMatch] = []
        for cut, wanted in self._primaries.get(prompt.model, {}).items():
            ends, runs = chain(cut).prefixes(wanted) if wanted else ((), None)
            for blocks, mask in ends:
                on_gpu = {Tier.GPU: blocks * cut.block_size}  # one for all: there may be thousands of them
                for number in bits(mask):
                    holder = self._holders[number]
                    assert holder is not None  # noqa: S101 - bits without a holder are in no primaries
                    if holder.state.hybrid:
                        matches += hybrid_match(holder.state, blocks * cut.block_size, chain)
                    elif runs is None:
                        matches.append(RankMatch(holder.rank, cut.block_size, on_gpu))
                    else:
                        matches.append(prefix_match(holder, blocks, runs))
        for state in self._windowed.get(prompt.model, ()):
            matches += hybrid_match(state, len(prompt.tokens), chain)
        return matches

    def ranks(self) -> Iterable[RankBlocks]:
        for rank, state in self._ranks.items():
            tiers = {tier: sum(holder.sizes[tier] for holder in state.holders) for tier in Tier}
            yield RankBlocks(
                rank, sorted(state.sizes), tiers, sorted(set(state.unsupported_groups.values())), state.inexact_reason
            )

    def disagreements(self) -> list[str]:
        """What does not fit together, a sentence each: for tests, since it walks over every block."""
        return list(disagreements(self._holding, self._holders, self._ranks.values(), self.blocks))

    def inexact_reason(self, rank: Rank) -> str | None:
        state = self._ranks.get(rank)
        if state is None:
            return None
        return state.inexact_reason or (_NOT_UNDERSTOOD if state.unsupported_groups else None)

    def lora_model(self, lora_name: str) -> str | None:
        return self._loras.get(lora_name)

    def loras(self) -> dict[str, str]:
        """LoRA name to the model that it was announced under."""
        return dict(self._loras)

    def _new_holder(self, rank: Rank, state: RankState, stored: Stored) -> Holder | None:
        """A holder for an event's blocks, which are its first; None when they are not to be held.

        Such are those of a group that is not understood, and parts of blocks.
        """
        cut = Cut(stored.block_size, stored.lookahead)
        if stored.group in state.unsupported_groups:
            return None
        if state.ends_a_block(stored):
            state.inexact_reason = state.inexact_reason or (_ENDS_OF_BLOCKS if state.recurrent else None)
            return None
        try:
            tail = tail_blocks(stored)
        except ValueError as error:
            state.unsupported_groups[stored.group] = str(error)
            return None
        number = self._free.pop() if self._free else len(self._holders)
        if number == len(self._holders):
            self._holders.append(None)
        holder = self._holders[number] = Holder(rank, state, 1 << number, group=stored.group, cut=cut, tail=tail)
        self._unlist(rank.model, state)
        state.sizes.add(cut.block_size)
        state.holders.append(holder)
        self._list(rank.model, state)
        return holder

    def _list(self, model: str, state: RankState) -> None:
        """Lets lookups find a rank."""
        primary = state.primary
        if primary is None or state.hidden:
            return
        if primary.tail is None:
            primaries = self._primaries.setdefault(model, {})
            primaries[primary.cut] = primaries.get(primary.cut, 0) | primary.bit
        else:
            self._windowed.setdefault(model, []).append(state)

    def _unlist(self, model: str, state: RankState) -> None:
        primary = state.primary
        if primary is None or state.hidden:
            return
        if primary.tail is None:
            self._primaries[model][primary.cut] ^= primary.bit
        else:
            self._windowed[model].remove(state)

    def _mistrust(self, rank: Rank, holder: Holder) -> None:
        """Takes a window that lacks blocks out of all lookups: it would hide what the engine has."""
        state = holder.state
        if holder.tail is not None:
            self._unlist(rank.model, state)
            state.holders.remove(holder)
            self._list(rank.model, state)
            state.unsupported_groups[holder.group] = "a window whose blocks are not all known"
            self._retire(holder)

    def _retire(self, holder: Holder) -> None:
        self.blocks -= sum(holder.sizes)
        self.statistics.cleared += sum(holder.sizes)
        self._cleared.append(holder)


def _keys_of_some(hashes: Sequence[BlockHash], keys: Sequence[BlockKey], holder: Holder) -> list[BlockKey] | None:
    """The keys of blocks that came with the tokens of more blocks, as groups do that keep only what a window needs.

    Another group knows them by their hashes. If none does, a single state (mamba) is the last one's; which blocks of a
    wider window they are cannot be told.
    """
    known = [holder.state.known(block_hash, holder.cut) for block_hash in hashes]
    if not hashes:  # of blocks that a group skipped altogether nothing can be reused
        return []
    if holder.tail == 1:
        return [last if key is None else key for key, last in zip(known, keys[-len(hashes) :], strict=True)]
    found = [key for key in known if key is not None]
    return found if len(found) == len(hashes) else None
