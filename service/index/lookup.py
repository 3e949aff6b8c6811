"""Lookups: which ranks hold a prefix of a prompt, most of them found together and the others one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.index.base import Matches, Prompt, Rank, RankMatch, Run, Tier
from service.index.cache_groups import BlockLayout, CacheGroup, Needs, RankState
from service.index.chain import Chain, bits, by_tiers, tiered_prefixes
from service.index.full_attention import FullAttention
from service.index.hybrid import alignment, hybrid_match
from service.index.key_cache import KeyCache
from service.index.keys import prompt_keys
from service.native.backend import PodOrder

_GPU = Tier.GPU  # to look up a member of an enumeration takes longer than to compare it
_NOBODY = Rank("", "")


class Lookup:
    """The ranks that lookups find among the blocks of `cache`."""

    def __init__(self, cache: FullAttention, key_cache: KeyCache) -> None:
        self._cache = cache
        self._plain_keys = key_cache.block_keys if key_cache.capacity else None
        self._primaries: dict[str, dict[tuple[BlockLayout, int], int]] = {}
        """Per model, layout and stride, the mask of the groups of full attention that lookups begin with."""
        self._others: dict[str, list[RankState]] = {}
        """Per model, the ranks that are looked up one by one."""
        self._ordinary = 0
        """The mask of the groups in `_primaries` whose ranks are ordinary."""
        self._ranks: list[Rank] = []
        """The rank of each group that was ever in `_primaries`, by bit."""
        self._last = Matches()
        self._is_changed = False

    def together(self, runs: Sequence[Run], alone: Sequence[RankMatch]) -> Matches:
        """The ranks in runs, and others."""
        last = self._last
        if self._is_changed:
            pods = PodOrder([rank.pod for rank in self._ranks], last.order.names)
            last = self._last = Matches(ranks=tuple(self._ranks), order=pods)
            self._is_changed = False
        return Matches(runs, alone, last.ranks, last.order)

    def matches(self, prompt: Prompt) -> list[RankMatch]:
        """The ranks that hold a prefix of the prompt, in no order."""
        runs, matches = self.runs(prompt)
        for run in runs:
            for number in bits(run.groups):
                group = self._cache.groups[number]
                assert group is not None  # noqa: S101 - bits without a group are in no primaries
                matches.append(RankMatch(group.rank, run.block_size, run.tokens_by_tier))
        return matches

    def runs(self, prompt: Prompt) -> tuple[list[Run], list[RankMatch]]:
        """The ranks that hold a prefix of the prompt: many together, and those that are looked up one by one."""
        chains: dict[BlockLayout, Chain] = {}

        def chain(layout: BlockLayout) -> Chain:
            if layout not in chains:
                keys = prompt_keys(prompt, layout.unit, layout.lookahead, self._plain_keys)
                chains[layout] = Chain(keys, self._cache.masks)
            return chains[layout]

        runs: list[Run] = []
        matches: list[RankMatch] = []
        if prompt.skips_cache:
            return runs, matches
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
                if ordinary := mask & self._ordinary:
                    if spans is None:
                        runs.append(Run(ordinary, size, {_GPU: blocks * size}))
                    else:
                        runs += (Run(some, size, held) for some, held in by_tiers(spans, ordinary, blocks, size))
                for number in bits(mask & ~self._ordinary):
                    group = self._cache.groups[number]
                    assert group is not None  # noqa: S101 - bits without a group are in no primaries
                    match = hybrid_match(group.state, tokens, chain)
                    matches += (match,) if match else ()
        for state in self._others.get(prompt.model, ()):
            match = hybrid_match(state, tokens, chain)
            matches += (match,) if match else ()
        return runs, matches

    @contextmanager
    def changing(self, model: str, state: RankState) -> Iterator[None]:
        """Finds a rank as it is afterwards; for changes of its groups, its chunks, EAGLE, and whether it is hidden."""
        self.remove(model, state)
        try:
            yield
        finally:
            self.add(model, state)

    def add(self, model: str, state: RankState) -> None:
        state.update_ordinary()
        place = _lookup_place(state)
        if place is None:
            return
        if isinstance(place, CacheGroup):
            primaries = self._primaries.setdefault(model, {})
            key = place.layout, place.stride
            primaries[key] = primaries.get(key, 0) | place.bit
            if state.is_ordinary:
                self._ordinary |= place.bit
            self._note_rank(place)
        else:
            self._others.setdefault(model, []).append(state)

    def remove(self, model: str, state: RankState) -> None:
        """To be called before the rank changes: it is found by what it is."""
        place = _lookup_place(state)
        if place is None:
            return
        if isinstance(place, CacheGroup):
            self._primaries[model][place.layout, place.stride] ^= place.bit
            self._ordinary &= ~place.bit
        else:
            self._others[model].remove(state)

    def _note_rank(self, group: CacheGroup) -> None:
        number = group.bit.bit_length() - 1
        self._ranks += [_NOBODY] * (number + 1 - len(self._ranks))
        if self._ranks[number] != group.rank:
            self._ranks[number] = group.rank
            self._is_changed = True


def _lookup_place(state: RankState) -> CacheGroup | RankState | None:
    """The group by which lookups find a rank, or the rank if it is looked up by itself; None if it is not found."""
    primary = state.primary
    if primary is None or state.hidden:
        return None
    by_itself = (
        primary.kind.needs is not Needs.ALL
        or state.chunk_blocks > 1
        or not all(group.on_device for group in state.groups)
        or alignment(state.groups) < primary.block_size  # a part of its first block may be reused
    )
    return state if by_itself else primary
