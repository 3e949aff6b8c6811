"""An index that was captured and built again answers every question, and takes every later event, as the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec
import pytest

from service.index.base import Index, Prompt, Rank, RankBlocks, RankMatch, Removed, Stored, Tier
from service.index.inexact_reasons import InexactReason
from service.index.memory import MemoryIndex
from service.index.snapshot_records import BlockRecord, RankRecord
from service.simulation.workload import SETUPS, generate, run
from tests.service.index.blocks import A, B, matches, stored
from tests.tries import tries

_decode = msgspec.msgpack.Decoder(RankRecord | BlockRecord).decode
_encode = msgspec.msgpack.Encoder().encode


def captured(index: Index, rank: Rank) -> list[bytes]:
    return [_encode(record) for record in index.capture(rank)]


def restore(index: Index, rank: Rank, records: Sequence[bytes]) -> None:
    first, *others = (_decode(record) for record in records)
    assert isinstance(first, RankRecord)
    restorer = index.restorer(rank, first)
    for record in others:
        assert not isinstance(record, RankRecord)
        restorer.add(record)
    restorer.finish()
    index.unhide(rank)


def copied(index: MemoryIndex, max_blocks: int) -> MemoryIndex:
    copy = MemoryIndex(max_blocks)
    for rank in [blocks.rank for blocks in index.ranks()]:
        restore(copy, rank, captured(index, rank))
    return copy


class Twins:
    """An index, and one that is built again from itself every now and then: both must behave alike."""

    def __init__(self, seed: int, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._random = Random(seed)
        self.index, self.copy = MemoryIndex(max_blocks), MemoryIndex(max_blocks)
        self.copies = 0

    def __getattr__(self, name: str) -> Any:
        if self._random.random() < 0.05:
            self.copy = copied(self.copy, self._max_blocks)
            self.copies += 1
            assert self.copy.disagreements() == []

        def both(*arguments: Any, **options: Any) -> Any:
            one, other = (getattr(index, name)(*arguments, **options) for index in (self.index, self.copy))
            assert self._shown(one) == self._shown(other), name
            return one

        return both

    def _shown(self, answer: Any) -> Any:
        if isinstance(answer, list):
            return sorted((match.rank, match.block_size, dict(match.tokens_by_tier)) for match in answer)
        return answer


def _same(twins: Twins) -> Twins:
    return twins


@pytest.mark.parametrize("name", SETUPS)
def test_a_restored_rank_of_any_engine_behaves_as_the_original(name: str) -> None:
    copies = 0
    for seed in range(tries(1, 8)):
        twins = Twins(seed, max_blocks=1 << 40)
        make: Callable[[], Any] = partial(_same, twins)
        for _ in run(SETUPS[name], generate(SETUPS[name], seed, 15), make):
            pass  # the twins compare all that happens to them
        assert list(twins.index.ranks()) == list(twins.copy.ranks())
        copies += twins.copies
    assert copies


@pytest.mark.parametrize("seed", range(3))
def test_a_restored_index_evicts_the_same_blocks(seed: int) -> None:
    random = Random(seed)
    index, limit = MemoryIndex(40_000), 40_000
    for number in range(30):
        rank = (A, B)[random.randrange(2)]
        start = 10_000 * number + 1
        index.store(rank, stored(*range(start, start + random.randrange(2000, 3000))))
    copy = copied(index, limit)
    for number in range(30, 34):  # many more would split the tables at other times, as the original has deleted entries
        start = 10_000 * number + 1
        for each in (index, copy):
            displaced = each.statistics.displaced
            each.store(A, stored(*range(start, start + 500)))
            assert each.statistics.displaced > displaced
        firsts = [10_000 * earlier + offset for earlier in range(number) for offset in range(1, 3000, 100)]
        assert [_holds(index, first) for first in firsts] == [_holds(copy, first) for first in firsts]
    assert _kept(index) == _kept(copy)


def _holds(index: MemoryIndex, block: int) -> list[RankMatch]:
    return index.match_hashes("m", [block])


def _kept(index: MemoryIndex) -> list[RankBlocks]:
    return sorted(index.ranks(), key=lambda blocks: blocks.rank)


def test_lower_tiers_copies_and_names_of_loras_are_restored() -> None:
    index = MemoryIndex(1000)
    index.store(A, stored(1, 2, 3, counts_copies=True, lora_name="sql"))
    index.store(A, stored(1, 2, counts_copies=True, lora_name="sql"))
    index.store(A, stored(2, 3, tokens=(), tier=Tier.CPU))
    copy = copied(index, 1000)
    assert copy.blocks == index.blocks == 5
    assert copy.lora_model("sql") == "m"
    for each in (index, copy):
        each.remove(A, Removed([1, 2, 3]))
        assert _tiers(each) == {Tier.GPU: 8, Tier.CPU: 4}
        each.remove(A, Removed([1]))
        assert _tiers(each) == {}


def _tiers(index: MemoryIndex) -> dict[Tier, int]:
    found: list[RankMatch] = index.match(Prompt(model="m", tokens=stored(1, 2, 3).tokens, lora_name="sql"))
    return dict(found[0].tokens_by_tier) if found else {}


def test_a_rank_is_hidden_until_it_is_shown() -> None:
    index, copy = MemoryIndex(1000), MemoryIndex(1000)
    index.store(A, stored(1, 2))
    first, *others = index.capture(A)
    assert isinstance(first, RankRecord)
    restorer = copy.restorer(A, first)
    for record in others:
        assert not isinstance(record, RankRecord)
        restorer.add(record)
    restorer.finish()
    assert matches(copy, 1, 2) == {}
    copy.unhide(A)
    assert matches(copy, 1, 2) == {A: 2}


def test_a_rank_with_blocks_is_not_overwritten() -> None:
    index = MemoryIndex(1000)
    index.store(A, stored(1))
    first = next(iter(index.capture(A)))
    assert isinstance(first, RankRecord)
    with pytest.raises(ValueError, match="has blocks already"):
        index.restorer(A, first)


def test_blocks_beyond_the_limit_are_left_out_and_the_rank_says_so() -> None:
    index = MemoryIndex(100_000)
    index.store(A, stored(*range(1, 10_001)))
    copy = copied(index, 5000)
    assert copy.blocks <= 5000
    assert copy.inexact_reason(A) == InexactReason.EVICTED_HERE
    assert copy.disagreements() == []


def test_what_answers_of_the_engine_told_is_restored() -> None:
    index = MemoryIndex(1000)
    index.store(A, stored(1, 2, 3))
    index.drop_last_block(A)
    index.observe(A, InexactReason.REUSES_LESS)
    copy = copied(index, 1000)
    for each in (index, copy):
        assert matches(each, 1, 2, 3) == {A: 2}
        assert each.inexact_reason(A) == InexactReason.REUSES_LESS


def test_an_unknown_rank_has_no_records() -> None:
    assert list(MemoryIndex(10).capture(A)) == []


def test_stores_after_a_restored_parent_continue_its_chain() -> None:
    index = MemoryIndex(1000)
    index.store(A, stored(1, 2))
    copy = copied(index, 1000)
    later: Stored = stored(3, parent=2)
    for each in (index, copy):
        each.store(A, later)
        assert matches(each, 1, 2, 3) == {A: 3}
