"""Batches that are applied as they are have the effect that they have when they are decoded."""

from __future__ import annotations

import logging
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from service.events.arrival import read_arrival
from service.events.index_sink import IndexSink
from service.events.rate_limited_log import RateLimitedLog
from service.events.statistics import EventStatistics
from service.histogram import Histogram
from service.index.base import Rank, Tier
from service.index.memory import MemoryIndex
from service.index.snapshot_records import RankRecord
from service.native import backend
from tests.tries import tries

RANK = Rank("10.0.0.1:8000", "m")
SIZE = 2
NO_TIMES = Histogram(())
MANY = 70
"""More than the first stores, which are remembered in case a connector offloads them."""

compiled = pytest.mark.skipif(not backend.COMPILED, reason="the inner loops are not compiled")


class Applied:
    """An index with one rank, whose batches are decoded, or applied as they are where that is possible.

    These are counted at once, or several `together`.
    """

    def __init__(self, *, packed: bool, max_blocks: int = 100_000, together: bool = False) -> None:
        self.index = MemoryIndex(max_blocks)
        self.statistics = EventStatistics()
        self.sink = IndexSink(RANK, self.index, self.statistics, RateLimitedLog(logging.getLogger(__name__)))
        self.packed = packed
        self.together = together
        self.as_they_are = 0

    def apply(self, payload: bytes) -> None:
        if self.packed and self.sink.apply_packed(payload, 0.0) is not None:
            self.as_they_are += 1
            if not self.together:
                self.sink.settle()
        else:
            self.sink.apply(read_arrival(0, payload))

    def known(self) -> object:
        """All that is known of the rank, in an order that does not depend on the shards of a table."""
        self.sink.settle()
        state = self.index._ranks.get(RANK)
        assert self.index.disagreements() == []
        groups = [] if state is None else state.groups
        first = next(self.index.capture(RANK), None)
        named = isinstance(first, RankRecord) and msgspec.structs.replace(
            first, groups=[msgspec.structs.replace(group, shards=[]) for group in first.groups]
        )
        return (
            named,
            [
                (
                    sorted((name, key, [masks.get(key) for masks in self.index._cache.masks]) for name, key in table),
                    group.sizes,
                    group.extra_copies,
                    group.alias_counts,
                    group.ambiguous_copies,
                    group.ages.counted(),
                )
                for group in groups
                for table in [group.hashes.items()]
            ],
            self.index.blocks,
            replace(self.index.statistics, lookup_seconds=NO_TIMES),
            self.index.inexact_reason(RANK),
            (self.sink.events_applied, self.sink.changes, self.sink.holds_blocks, self.sink.loss),
            (self.statistics.batches_applied, self.statistics.events_applied, self.statistics.skipped),
        )


def store(hashes: list[int], parent: int | None = None, **fields: Any) -> dict[str, Any]:
    """Stores blocks whose tokens follow from their hashes."""
    tokens = [(block_hash * SIZE + offset) % 2**32 for block_hash in hashes for offset in range(SIZE)]
    event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens}
    return {**event, "block_size": SIZE, **fields}


def remove(hashes: list[int], **fields: object) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": hashes, **fields}


def batch(*events: object, rank: int | None = 0) -> bytes:
    return msgspec.msgpack.encode([1.0, events, rank])


def warmed(applied: Applied, **fields: Any) -> None:
    for number in range(MANY):
        applied.apply(batch(store([10_000 + number], **fields)))


NAMED: dict[str, Any] = {"group_idx": 0, "kv_cache_spec_kind": "full_attention", "medium": "GPU"}


def random_event(random: Random, fields: dict[str, Any]) -> dict[str, Any]:
    """A store or a removal of few names, so that copies, unknown parents and repetitions are common."""
    names = [random.randrange(60) for _ in range(random.choice((1, 1, 1, 2, 5, 0)))]
    parent = random.choice((None, None, random.randrange(60), 10_000))
    nothing: dict[str, Any] = {}
    odd = random.choice(
        [nothing] * 12
        + [{"lora_name": "sql"}, {"extra_keys": [["salt"]] * len(names)}, {"medium": "CPU"}, {"group_idx": 1}]
        + [{"block_size": 2 * SIZE}, {"kv_cache_spec_kind": "sliding_window", "kv_cache_spec_sliding_window": 8}]
        + [{"remaining_copy_counts": [0] * len(names)}, {"token_ids": []}]
    )
    if random.random() < 0.45:
        return remove(names, **{name: value for name, value in {**fields, **odd}.items() if name in REMOVED})
    return store(names, parent, **{**fields, **odd})


def random_batch(random: Random, fields: dict[str, Any], most: int) -> bytes:
    """Of up to so many events."""
    if random.random() < 0.01:
        return batch({"type": "AllBlocksCleared"})
    events = [random_event(random, fields) for _ in range(random.choice((1, random.randint(1, most))))]
    return batch(*events, rank=random.choice((0, 0, 0, None)))


REMOVED = ("medium", "group_idx", "remaining_copy_counts")


@pytest.mark.parametrize("fields", [{}, NAMED], ids=["without groups", "with a group"])
@pytest.mark.parametrize("odds", [0.0, 1.0], ids=["common batches", "odd ones, too"])
def test_batches_applied_as_they_are_have_the_same_effect(fields: dict[str, Any], odds: float) -> None:
    random = Random(5)
    as_they_are = 0
    for _ in range(tries(5, 40)):
        # Evictions above the limit, and the ages of blocks, are settled after the batch, and not after each event.
        most, events = random.choice(((40, 1), (100_000, 1), (10**9, 6)))
        one, same = Applied(packed=True, max_blocks=most), Applied(packed=False, max_blocks=most)
        for applied in (one, same):
            warmed(applied, **fields)
        for _ in range(150):
            common = random.random() >= odds
            payload = common_batch(random, fields, events) if common else random_batch(random, fields, events)
            one.apply(payload)
            same.apply(payload)
            assert one.known() == same.known(), payload
        as_they_are += one.as_they_are
    assert as_they_are > (50 if backend.COMPILED else -1)


def common_batch(random: Random, fields: dict[str, Any], most: int) -> bytes:
    """Stores of new blocks, and their removals, with a name that is used again now and then."""
    events = []
    for _ in range(random.randint(1, most)):
        first = random.randrange(2000)
        if random.random() < 0.4:
            of_removal = {name: value for name, value in fields.items() if name in REMOVED}
            events.append(remove([first, first + 1], **of_removal))
        else:
            parent = random.choice((None, random.randrange(2000), 10_001))
            events.append(store([first, first + 1], parent, **fields))
    return batch(*events)


def test_batches_counted_together_have_the_same_effect() -> None:
    random = Random(6)
    one, same = Applied(packed=True, max_blocks=10**9, together=True), Applied(packed=False, max_blocks=10**9)
    for applied in (one, same):
        warmed(applied)
    for _ in range(tries(300, 1000)):
        for _ in range(random.randrange(10)):
            is_odd = random.random() < 0.05
            payload = random_batch(random, {}, 6) if is_odd else common_batch(random, {}, 6)
            one.apply(payload)
            same.apply(payload)
        assert one.known() == same.known()


@compiled
def test_a_store_of_new_blocks_and_their_removal_are_applied_as_they_are() -> None:
    applied = Applied(packed=True)
    warmed(applied, **NAMED)
    before = applied.as_they_are
    applied.apply(batch(store([1, 2, 3], **NAMED)))
    applied.apply(batch(store([4], 3, **NAMED)))
    applied.apply(batch(remove([4, 3], medium="GPU", group_idx=0)))
    applied.sink.settle()
    assert applied.as_they_are == before + 3
    assert applied.index.blocks == MANY + 2


@compiled
def test_a_step_of_an_engine_is_applied_as_it_is() -> None:
    applied = Applied(packed=True)
    warmed(applied, **NAMED)
    before = applied.sink.events_applied
    step = batch(remove([10_000]), remove([10_001]), store([1, 2], **NAMED), remove([999]), store([3], 2, **NAMED))
    assert applied.sink.apply_packed(step, 0.0) == 1.0
    applied.sink.settle()
    assert (applied.index.blocks, applied.sink.events_applied) == (MANY + 1, before + 5)


@compiled
@pytest.mark.parametrize(
    "odd",
    [store([10_001]), store([6], 999), remove([10_000]), store([6, 6])],
    ids=["a copy", "an unknown parent", "a removal of a copy", "a block twice"],
)
def test_a_batch_is_decoded_from_the_first_event_on_that_needs_it(odd: dict[str, Any]) -> None:
    one, same = Applied(packed=True), Applied(packed=False)
    for applied in (one, same):
        warmed(applied)
        applied.apply(batch(store([10_000])))
    before = one.as_they_are
    payload = batch(store([1]), remove([10_002]), odd, store([2, 3], 1), remove([2]))
    for applied in (one, same):
        applied.apply(payload)
    assert one.as_they_are == before + 1
    assert one.known() == same.known()


DECODED = (
    batch(store([1]), rank=1),
    batch(store([1], 999)),
    batch(store([10_000])),
    batch(store([1, 10_000, 2])),
    batch(store([1, 2, 1])),
    batch(store([1], lora_name="sql")),
    batch(store([1], group_idx=1)),
    batch(store([1], medium="CPU")),
    batch(),
    batch(store([1]), store([2], group_idx=1)),
    batch(store([1]), store([2]), rank=1),
    batch(store([1]), {"type": "AllBlocksCleared"}),
    batch(store([10_000]), store([1])),
    batch(remove([10_000]), store([1]))[:-1],
    msgspec.msgpack.encode([-1.0, [store([1])], 0]),
    msgspec.msgpack.encode([float("nan"), [store([1])], 0]),
    msgspec.msgpack.encode([None, [store([1])], 0]),
    batch(store([1]))[:-1],
    b"",
)


@compiled
@pytest.mark.parametrize("payload", DECODED, ids=range(len(DECODED)))
def test_what_is_to_be_decoded_has_no_effect_before(payload: bytes) -> None:
    applied = Applied(packed=True)
    warmed(applied)
    before = applied.known()
    assert applied.sink.apply_packed(payload, 0.0) is None
    assert applied.known() == before


@compiled
def test_a_removal_of_a_block_that_has_copies_is_decoded() -> None:
    applied = Applied(packed=True)
    warmed(applied)
    applied.apply(batch(store([10_000])))
    assert applied.sink.apply_packed(batch(remove([10_000])), 0.0) is None
    assert applied.sink.apply_packed(batch(remove([10_001])), 0.0) == 1.0
    assert applied.sink.apply_packed(batch(store([1])), 0.0) == 1.0
    assert applied.index._cache.masks[Tier.GPU]


@compiled
def test_a_rank_that_was_cleared_is_decoded_again_until_it_is_plain() -> None:
    applied = Applied(packed=True)
    warmed(applied)
    applied.sink.clear()
    assert applied.sink.apply_packed(batch(store([1])), 0.0) is None
    warmed(applied)
    assert applied.sink.apply_packed(batch(store([1])), 0.0) == 1.0
    applied.sink.settle()
    assert applied.index.blocks == MANY + 1
