"""Batches of very many events: applied as small ones are, in slices."""

from __future__ import annotations

import logging
from array import array
from typing import Any

import msgspec
import pytest

from service.events.arrival import receive_arrival
from service.events.index_sink import APPLIES_LARGE_BATCH, IndexSink
from service.events.large_batches import LARGE_BLOCKS, LARGE_EVENTS, SLICE_BLOCKS, read_batch_or_pack, slices
from service.events.rate_limited_log import RateLimitedLog
from service.events.statistics import EventStatistics
from service.events.wire import WireError, read_batch
from service.index.base import Prompt, Stored
from service.index.memory import MemoryIndex
from service.simulation.publisher import Publisher
from tests.service.events.batches import RANK, TOPIC, becomes_exact, endpoint, held, state, stored, tokens_of
from tests.service.events.conftest import Listen
from tests.waiting import until

COUNT = LARGE_EVENTS + 2000


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": [number],
        "token_ids": tokens_of(number),
        "block_size": 4,
        "lora_name": None,
        **fields,
    }


def payload(*events: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


def sink(index: MemoryIndex) -> IndexSink:
    return IndexSink(RANK, index, EventStatistics(), RateLimitedLog(logging.getLogger(__name__)))


@pytest.mark.parametrize("rank", [None, 0, 127, 128, 255, 256, 65535, 65536, 1 << 32])
def test_the_rank_at_the_end_of_a_large_batch_is_read_in_any_size(rank: int | None) -> None:
    batch = read_batch_or_pack(msgspec.msgpack.encode([1.0, [event(number) for number in range(COUNT)], rank]))
    assert batch.packed is not None
    assert (batch.packed.count, batch.rank) == (COUNT, rank or 0)
    assert sum(len(part.events) for part in slices(batch)) == COUNT


@pytest.mark.parametrize("damage", ["cut", "longer", "counted wrong"])
def test_a_large_batch_that_does_not_end_with_its_events_makes_the_rank_inexact(damage: str) -> None:
    whole = bytearray(payload(*(event(number) for number in range(COUNT))))
    if damage == "cut":
        del whole[-40:]
        whole[-9:] = bytes(9)
    elif damage == "longer":
        whole[-1:-1] = bytes(3)
    else:
        whole[11:13] = (COUNT + 1).to_bytes(2, "big")
    index = MemoryIndex(1_000_000)
    target = sink(index)
    target.apply(receive_arrival(0, bytes(whole)))
    while target.apply_slice():
        pass
    assert target.inexact_reason == "a part of a batch could not be applied"


@pytest.mark.parametrize("as_map", [False, True])
def test_the_slices_of_a_batch_hold_its_events_in_order(as_map: bool) -> None:
    removed = [{"type": "BlockRemoved", "block_hashes": [number]} for number in range(COUNT // 2)]
    events = [event(number) for number in range(COUNT // 2)] + removed + [{"type": "AllBlocksCleared"}]
    whole = msgspec.msgpack.encode({"ts": 1.0, "events": events} if as_map else [1.0, events, 3])
    packed = read_batch_or_pack(whole)
    assert (packed.timestamp, packed.rank, packed.events) == (1.0, 0 if as_map else 3, ())
    parts = list(slices(packed))
    assert [one for part in parts for one in part.events] == read_batch(whole).events
    assert len(parts) > 10


def test_a_batch_of_few_events_is_read_whole_whatever_its_size() -> None:
    long = payload(event(1, block_hashes=list(range(LARGE_BLOCKS)), token_ids=list(range(4 * LARGE_BLOCKS))))
    assert read_batch_or_pack(long) == read_batch(long)


def blocks_of(index: MemoryIndex, tokens: list[int]) -> int:
    (found,) = index.match(Prompt(RANK.model, array("I", tokens)))
    return found.tokens // 4


def test_an_event_of_very_many_blocks_is_applied_in_slices() -> None:
    index = MemoryIndex(1_000_000)
    target = sink(index)
    count = LARGE_BLOCKS + 5
    hashes, tokens = list(range(count)), list(range(4 * count))
    target.apply(receive_arrival(0, payload(event(1, block_hashes=hashes, token_ids=tokens))))
    blocks = []
    while target.apply_slice():
        blocks.append(index.blocks)
    assert blocks == [*range(SLICE_BLOCKS, LARGE_BLOCKS + 1, SLICE_BLOCKS), count]
    assert target.inexact_reason is None
    assert blocks_of(index, tokens) == count

    target.apply(receive_arrival(1, payload({"type": "BlockRemoved", "block_hashes": hashes[7:] + [-1] * 7})))
    while target.apply_slice():
        pass
    assert blocks_of(index, tokens) == 7


def test_the_salt_of_an_event_that_is_applied_in_slices_counts_once() -> None:
    count = LARGE_BLOCKS + 1
    salted = event(1, block_hashes=list(range(count)), token_ids=list(range(4 * count)), cache_salt="s")
    first, second, *_ = (part.events[0] for part in slices(read_batch_or_pack(payload(salted))))
    assert isinstance(first, Stored)
    assert isinstance(second, Stored)
    assert [len(first.extras), len(second.extras)] == [1, 0]
    assert second.parent == first.hashes[-1]


@pytest.mark.parametrize(
    ("hashes", "tokens", "kind"), [(1_500_000, 1_500_000, "full_attention"), (1, LARGE_BLOCKS + 1, "sliding_window")]
)
def test_an_event_that_is_too_large_to_read_or_to_cut_makes_the_rank_inexact(
    hashes: int, tokens: int, kind: str
) -> None:
    fields = {"block_hashes": [2**63] * hashes, "token_ids": [2**31] * tokens, "block_size": 1}
    index = MemoryIndex(1_000_000)
    target = sink(index)
    target.apply(receive_arrival(0, payload(event(0), event(1, **fields, kv_cache_spec_kind=kind))))
    while target.apply_slice():
        pass
    assert target.inexact_reason == "an event could not be read (an event of too many blocks)"
    assert index.blocks == 1


def test_a_report_of_reuse_that_is_cut_is_not_trusted() -> None:
    count = LARGE_BLOCKS + 1
    grouped = {"group_idx": 0, "kv_cache_spec_kind": "full_attention"}
    report = event(1, block_hashes=list(range(count)), token_ids=list(range(4 * count)), **grouped)
    unread = [part.unread for part in slices(read_batch_or_pack(payload(report)))]
    assert unread == [{"a batch of too many stores": 1}] * 9


def test_events_that_are_longer_than_a_slice_are_read() -> None:
    long = event(1, block_hashes=list(range(LARGE_BLOCKS)), token_ids=list(range(4 * LARGE_BLOCKS)))
    whole = payload(event(0), long, event(2), long, event(3))
    parts = [part.events for part in slices(read_batch_or_pack(whole))]
    assert [one for part in parts for one in part] == read_batch(whole).events
    assert len(parts) > 1


def test_a_large_payload_of_another_form_is_refused() -> None:
    with pytest.raises(WireError):
        read_batch_or_pack(msgspec.msgpack.encode(["x", [1] * 500_000, 0]))


def test_stores_of_groups_that_a_slice_cuts_apart_are_not_trusted() -> None:
    grouped = [event(number, group_idx=0, kv_cache_spec_kind="full_attention") for number in range(COUNT)]
    unread = {reason for part in slices(read_batch_or_pack(payload(*grouped))) for reason in part.unread}
    assert unread == {"a batch of too many stores"}


def test_a_slice_at_a_time_is_applied_and_the_rank_is_inexact_meanwhile() -> None:
    index = MemoryIndex(1_000_000)
    target = sink(index)
    target.apply(receive_arrival(0, payload(*(event(number) for number in range(COUNT)))))
    target.apply(receive_arrival(1, stored(COUNT)))
    blocks = []
    while target.apply_slice():
        blocks.append(index.blocks)
        assert target.inexact_reason == APPLIES_LARGE_BATCH
    assert target.inexact_reason is None
    assert index.blocks == COUNT + 1
    assert max(after - before for before, after in zip([0, *blocks], blocks, strict=False)) <= 1024


def test_a_restart_drops_what_waits() -> None:
    index = MemoryIndex(1_000_000)
    target = sink(index)
    target.apply(receive_arrival(0, payload(*(event(number) for number in range(COUNT)))))
    target.clear()
    assert not target.apply_slice()
    assert (index.blocks, target.inexact_reason) == (0, None)


def test_an_event_of_a_slice_that_cannot_be_read_makes_the_rank_inexact_until_it_is_cleared() -> None:
    index = MemoryIndex(1_000_000)
    target = sink(index)
    target.apply(receive_arrival(0, payload(*(event(number) for number in range(COUNT)), {"type": "Unheard"})))
    while target.apply_slice():
        pass
    assert target.inexact_reason == "an event could not be read (unknown event)"
    target.clear()
    assert target.inexact_reason is None


async def test_other_endpoints_are_heard_and_the_batch_is_applied_in_the_end(listen: Listen) -> None:
    async with Publisher(topic="kv@large@m") as large, Publisher(topic=TOPIC) as small:
        listening = await listen(endpoint(large, replay=False), endpoint(small, replay=False))
        await large.subscribed()
        await small.subscribed()
        large.publish(payload(*(event(number) for number in range(COUNT))))
        large.publish(stored(COUNT))
        small.publish(stored(0))
        await until(lambda: RANK in listening.states() and held(listening) == {0})
        await until(lambda: listening.index.blocks == COUNT + 2)
        rank = RANK._replace(pod="large")
        await becomes_exact(listening, rank)
        assert state(listening, rank) == (True, None)
