"""An index in memory: for every block key a bitmask of who holds it, so that a lookup is one AND per block."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

from service.index.base import BlockHash, BlockKey, Prompt, Rank, RankBlocks, RankMatch, Removed, Stored, Tier
from service.index.keys import block_keys, prompt_keys, root_key
from service.index.statistics import IndexStatistics


class Cut(NamedTuple):
    """How a prompt is cut into blocks; ranks with the same cut are looked up together."""

    block_size: int
    lookahead: int


class Holder:
    """One KV-cache group of one rank: the bit that stands for it in all masks, and its engine's names for blocks."""

    __slots__ = ("bit", "copies", "cut", "group", "keys", "rank", "sizes")

    def __init__(self, rank: Rank, group: int | None, cut: Cut, bit: int) -> None:
        self.rank = rank
        self.group = group
        self.cut = cut
        self.bit = bit
        self.keys: dict[BlockHash, BlockKey] = {}
        self.copies: dict[tuple[BlockHash, Tier], int] = {}  # beyond the first: most blocks have one
        self.sizes = [0] * len(Tier)


class RankState:
    """What is known of one rank."""

    __slots__ = ("flaw", "hidden", "holders", "ungrouped")

    def __init__(self) -> None:
        self.holders: list[Holder] = []
        self.hidden = False
        self.flaw: str | None = None
        self.ungrouped: set[str] = set()


class MemoryIndex:
    """Implements service.index.base.Index."""

    def __init__(self, max_blocks: int) -> None:
        self.statistics = IndexStatistics()
        self.blocks = 0
        self._max_blocks = max_blocks
        self._holding: tuple[dict[BlockKey, int], ...] = tuple({} for _ in Tier)
        self._ranks: dict[Rank, RankState] = {}
        self._wanted: dict[str, dict[Cut, int]] = {}
        self._holders: list[Holder | None] = []
        self._free_bits: list[int] = []
        self._retired: deque[Holder] = deque()
        self._ages: deque[list[Holder | int]] = deque()
        self._loras: dict[str, str] = {}

    def store(self, rank: Rank, stored: Stored) -> int:
        state = self._ranks.setdefault(rank, RankState())
        if not stored.tokens:
            return self._store_known(state, stored)
        holder = self._holder(rank, state, stored)
        if stored.parent is None:
            parent: int | None = root_key(rank.model, stored.lora_name, stored.block_size)
            if stored.lora_name is not None:
                self._loras.setdefault(stored.lora_name, rank.model)
        else:
            parent = holder.keys.get(stored.parent)
        if parent is None:
            self.statistics.unknown_parents += len(stored.hashes)
            state.flaw = "blocks were left out because the block before them is unknown"
            return len(stored.hashes)
        keys = block_keys(parent, stored.tokens, stored.block_size, stored.extras)
        self._add(holder, stored.tier, stored.hashes, keys)
        return 0

    def _add(self, holder: Holder, tier: Tier, hashes: Sequence[BlockHash], keys: Sequence[BlockKey]) -> None:
        holding, names, bit = self._holding[tier], holder.keys, holder.bit
        added = 0
        for block_hash, key in zip(hashes, keys, strict=True):
            mask = holding.get(key, 0)
            if mask & bit:
                holder.copies[block_hash, tier] = holder.copies.get((block_hash, tier), 0) + 1
            else:
                holding[key] = mask | bit
                names[block_hash] = key
                added += 1
        holder.sizes[tier] += added
        self.blocks += added
        self.statistics.admissions += added

    def _store_known(self, state: RankState, stored: Stored) -> int:
        unknown = 0
        for block_hash in stored.hashes:
            for holder in state.holders:
                key = holder.keys.get(block_hash)
                if key is not None:
                    self._add(holder, stored.tier, (block_hash,), (key,))
                    break
            else:
                unknown += 1
        self.statistics.unknown_blocks += unknown
        return unknown

    def remove(self, rank: Rank, removed: Removed) -> int:
        state = self._ranks.get(rank)
        holders = state.holders if state else ()
        unknown = sum(
            not any(self._remove(holder, removed.tier, block_hash) for holder in holders)
            for block_hash in removed.hashes
        )
        self.statistics.evictions += len(removed.hashes) - unknown
        self.statistics.unknown_blocks += unknown
        return unknown

    def _remove(self, holder: Holder, tier: Tier, block_hash: BlockHash) -> bool:
        key = holder.keys.get(block_hash)
        if key is None:
            return False
        copies = holder.copies.get((block_hash, tier))
        if copies:
            if copies == 1:
                del holder.copies[block_hash, tier]
            else:
                holder.copies[block_hash, tier] = copies - 1
            return True
        return self._drop(holder, tier, block_hash, key)

    def _drop(self, holder: Holder, tier: Tier, block_hash: BlockHash, key: BlockKey) -> bool:
        holding, bit = self._holding[tier], holder.bit
        mask = holding.get(key, 0)
        if not mask & bit:
            return False
        if mask == bit:
            del holding[key]
        else:
            holding[key] = mask ^ bit
        holder.sizes[tier] -= 1
        self.blocks -= 1
        if not any(tier_masks.get(key, 0) & bit for tier_masks in self._holding):
            del holder.keys[block_hash]
        return True

    def clear(self, rank: Rank) -> None:
        state = self._ranks.get(rank)
        if state is None:
            return
        for holder in state.holders:
            self._wanted[rank.model][holder.cut] &= ~holder.bit
            self.blocks -= sum(holder.sizes)
            self.statistics.cleared += sum(holder.sizes)
            self._retired.append(holder)
        state.holders = []
        state.flaw = None

    def hide(self, rank: Rank, hidden: bool) -> None:
        state = self._ranks.get(rank)
        if state is None or state.hidden == hidden:
            return
        state.hidden = hidden
        for holder in state.holders:
            self._wanted[rank.model][holder.cut] ^= holder.bit

    def forget(self, rank: Rank) -> None:
        self.clear(rank)
        self._ranks.pop(rank, None)

    def sweep(self, blocks: int) -> bool:
        while self._retired and blocks > 0:
            holder = self._retired[0]
            for _ in range(min(blocks, len(holder.keys))):
                _, key = holder.keys.popitem()
                for holding in self._holding:
                    mask = holding.get(key, 0)
                    if mask == holder.bit:
                        del holding[key]
                    elif mask & holder.bit:
                        holding[key] = mask ^ holder.bit
                blocks -= 1
            if not holder.keys:
                self._retired.popleft()
                number = holder.bit.bit_length() - 1
                self._holders[number] = None
                self._free_bits.append(number)
        return bool(self._retired)

    def match(self, prompt: Prompt) -> list[RankMatch]:
        started = perf_counter()
        matches: list[RankMatch] = []
        pods = None if prompt.pods is None else frozenset(prompt.pods)
        for cut, wanted in self._wanted.get(prompt.model, {}).items():
            keys = prompt_keys(prompt, cut.block_size, cut.lookahead) if wanted else ()
            if keys:
                matches += (match for match in self._walk(keys, wanted) if pods is None or match.rank.pod in pods)
        self.statistics.lookups += 1
        self.statistics.lookup_hits += bool(matches)
        self.statistics.lookup_seconds.observe(perf_counter() - started)
        return matches

    def _walk(self, keys: Sequence[BlockKey], wanted: int) -> Iterator[RankMatch]:
        gpu, cpu, storage = self._holding
        alive = wanted
        ends: list[tuple[int, int]] = []
        runs: list[tuple[int, int, int]] = []
        count = 0
        for count, key in enumerate(keys):
            on_gpu, on_cpu = gpu.get(key, 0), cpu.get(key, 0)
            still = alive & (on_gpu | on_cpu | storage.get(key, 0))
            if still != alive:
                if count:
                    ends.append((count, alive ^ still))
                alive = still
                if not alive:
                    break
            run = (on_gpu & alive, on_cpu & alive)
            if not runs or runs[-1][1:] != run:
                runs.append((count, *run))
        else:
            ends.append((len(keys), alive))
        for length, mask in ends:
            for holder in self._held_by(mask):
                yield RankMatch(holder.rank, holder.cut.block_size, _tiers(holder, length, runs))

    def _held_by(self, mask: int) -> Iterator[Holder]:
        while mask:
            low = mask & -mask
            holder = self._holders[low.bit_length() - 1]
            assert holder is not None  # noqa: S101 - bits of retired holders are in no wanted mask
            yield holder
            mask ^= low

    def ranks(self) -> Iterable[RankBlocks]:
        for rank, state in self._ranks.items():
            sizes = sorted({holder.cut.block_size for holder in state.holders})
            tiers = {tier: sum(holder.sizes[tier] for holder in state.holders) for tier in Tier}
            yield RankBlocks(rank, sizes, tiers, sorted(state.ungrouped), state.flaw)

    def flaw(self, rank: Rank) -> str | None:
        state = self._ranks.get(rank)
        return state.flaw if state else None

    def lora_model(self, lora_name: str) -> str | None:
        return self._loras.get(lora_name)

    def _holder(self, rank: Rank, state: RankState, stored: Stored) -> Holder:
        cut = Cut(stored.block_size, stored.lookahead)
        for holder in state.holders:
            if holder.cut == cut and holder.group == stored.group:
                return holder
        number = self._free_bits.pop() if self._free_bits else len(self._holders)
        if number == len(self._holders):
            self._holders.append(None)
        holder = Holder(rank, stored.group, cut, 1 << number)
        self._holders[number] = holder
        state.holders.append(holder)
        wanted = self._wanted.setdefault(rank.model, {})
        wanted[cut] = wanted.get(cut, 0) | (0 if state.hidden else holder.bit)
        return holder


def _tiers(holder: Holder, length: int, runs: Sequence[tuple[int, int, int]]) -> dict[Tier, int]:
    tokens: dict[Tier, int] = {}
    for position, (start, on_gpu, on_cpu) in enumerate(runs):
        if start >= length:
            break
        stop = min(runs[position + 1][0], length) if position + 1 < len(runs) else length
        tier = Tier.GPU if on_gpu & holder.bit else Tier.CPU if on_cpu & holder.bit else Tier.STORAGE
        tokens[tier] = tokens.get(tier, 0) + (stop - start) * holder.cut.block_size
    return tokens
