from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from service.events.index_sink import emptied_pools
from service.events.wire import Cleared, WireError, read_batch
from service.index.base import Removed, Reuse, Stored, Tier
from service.index.keys import block_extra, lookahead_extra
from service.native.backend import as_key_vector

TOKENS = array("I", range(4))
FIELDS: dict[str, Any] = {
    "block_hashes": [1, 2],
    "parent_block_hash": 7,
    "token_ids": [0, 1, 2, 3],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
    "extra_keys": [None, None],
    "group_idx": 0,
    "kv_cache_spec_kind": "full_attention",
    "kv_cache_spec_sliding_window": None,
    "locality": None,
    "ownership": None,
    "session_id": None,
    "lookahead_token_ids": None,
}


def packed(events: object, rank: object = 0) -> bytes:
    return msgspec.msgpack.encode([1.5, events, rank])


def as_map(**changes: Any) -> dict[str, Any]:
    return {"type": "BlockStored", **FIELDS, **changes}


def as_array(length: int, **changes: Any) -> list[Any]:
    return ["BlockStored", *({**FIELDS, **changes}.values())][: length + 1]


def stored(event: object) -> Stored:
    batch = read_batch(packed([event]))
    assert not batch.unread
    (read,) = batch.events
    assert isinstance(read, Stored)
    return read


@pytest.mark.parametrize("length", range(4, len(FIELDS) + 1))
def test_an_array_of_any_release_says_the_same_as_the_map(length: int) -> None:
    read = stored(as_array(length))
    assert (list(read.hashes), read.parent, read.tokens, read.block_size) == ([1, 2], 7, TOKENS, 2)
    assert read.tier is Tier.GPU
    assert read.group == (0 if length > 8 else None)
    assert stored(as_map()) == stored(as_array(len(FIELDS)))


def test_fields_that_a_map_leaves_out_are_none() -> None:
    read = stored({"type": "BlockStored", "block_hashes": [1], "token_ids": [5, 6], "block_size": 2})
    assert read == Stored(as_key_vector([1]), None, array("I", [5, 6]), 2)


def test_fields_that_nobody_knows_yet_are_passed_over() -> None:
    assert stored(as_map(colour="blue")) == stored(as_map())
    assert stored([*as_array(len(FIELDS)), "blue", 3]) == stored(as_map())


def test_a_batch_is_an_array_or_a_map() -> None:
    batch = {"ts": 1.5, "events": [as_map()], "data_parallel_rank": 3, "engine": "x"}
    assert read_batch(msgspec.msgpack.encode(batch)) == read_batch(packed([as_map()], 3))


@pytest.mark.parametrize(("rank", "read"), [(None, 0), (0, 0), (5, 5)])
def test_a_batch_without_a_rank_is_of_rank_0(rank: int | None, read: int) -> None:
    assert read_batch(packed([], rank)).rank == read
    assert read_batch(msgspec.msgpack.encode([1, []])).rank == 0


def test_events_keep_their_order() -> None:
    batch = read_batch(packed([["BlockRemoved", [9]], as_map(), {"type": "AllBlocksCleared"}, ["AllBlocksCleared"]]))
    assert [type(event) for event in batch.events] == [Removed, Stored, Cleared, Cleared]


def test_a_hash_is_the_same_signed_and_unsigned() -> None:
    assert stored(as_map(block_hashes=[-1, 2], parent_block_hash=-2)) == stored(
        as_map(block_hashes=[2**64 - 1, 2], parent_block_hash=2**64 - 2)
    )


@pytest.mark.parametrize("length", [8, 16, 32, 64])
def test_a_hash_may_be_bytes_of_any_length(length: int) -> None:
    names = [b"a" * length, b"b" * length]
    read = stored(as_map(block_hashes=names, parent_block_hash=b"a" * length))
    assert read.hashes[0] == read.parent != read.hashes[1]
    assert all(-(2**63) <= block_hash < 2**63 for block_hash in read.hashes)


@pytest.mark.parametrize(
    ("medium", "tier"),
    [
        (None, Tier.GPU),
        ("GPU", Tier.GPU),
        ("CPU", Tier.CPU),
        ("CPU_PINNED", Tier.CPU),
        ("STORAGE", Tier.STORAGE),
        ("FS", Tier.STORAGE),
        ("OBJ", Tier.STORAGE),
        ("DISK", Tier.STORAGE),
        ("EXTERNAL", Tier.STORAGE),
    ],
)
def test_a_medium_is_a_tier(medium: str | None, tier: Tier) -> None:
    assert stored(as_map(medium=medium)).tier is tier
    (removed,) = read_batch(packed([["BlockRemoved", [1], medium]])).events
    assert removed == Removed(as_key_vector([1]), tier)


def test_the_name_of_a_lora_is_no_extra_but_a_salt_of_the_same_name_is() -> None:
    lora = "sql"
    assert stored(as_map(lora_name=lora, extra_keys=[[lora], [lora]])).extras == [None, None]
    assert stored(as_map(lora_name=lora, extra_keys=[[lora, lora], [lora]])).extras == [block_extra([lora]), None]
    assert stored(as_map(extra_keys=[[lora], None])).extras == [block_extra([lora]), None]


def test_extras_of_text_numbers_and_bytes_differ() -> None:
    extras = [["a"], [b"a"], [["a", 1]], [["a", 2]], [1]]
    read = [stored(as_map(extra_keys=[extra, None])).extras[0] for extra in extras]
    assert len(set(read)) == len(extras)


def test_a_lora_without_a_name_is_one_that_no_request_can_name() -> None:
    assert stored(as_array(5, lora_id=1)).lora_name == "\0001"
    assert stored(as_array(5, lora_id=0)).lora_name == "\0000"


def test_a_salt_of_sglang_goes_into_the_first_block_of_a_chain() -> None:
    event = {"type": "BlockStored", "block_hashes": [1, 2], "token_ids": [0, 1, 2, 3], "block_size": 2}
    assert stored({**event, "cache_salt": "s"}).extras == [block_extra(["s"])]
    assert not any(stored({**event, "cache_salt": "s", "parent_block_hash": 3}).extras)


def test_pairs_of_tokens_are_tokens_that_look_one_ahead() -> None:
    pairs = [[10, 11], [11, 12], [12, 13], [13, 14]]
    read = stored(as_map(token_ids=pairs, extra_keys=None))
    assert read.tokens == array("I", [10, 11, 12, 13])
    assert read.lookahead == 1
    assert read.extras == [lookahead_extra(None, array("I", [12])), lookahead_extra(None, array("I", [14]))]
    assert read == stored(as_map(token_ids=[10, 11, 12, 13], extra_keys=None, lookahead_token_ids=[[12], [14]]))


def test_hashes_may_come_without_tokens() -> None:
    read = stored(as_map(token_ids=[], block_size=0, parent_block_hash=None, medium="CPU"))
    assert (list(read.hashes), len(read.tokens), read.tier) == ([1, 2], 0, Tier.CPU)


def test_a_window_may_name_fewer_blocks_than_it_has_tokens_for() -> None:
    window = as_map(block_hashes=[2], kv_cache_spec_kind="sliding_window", kv_cache_spec_sliding_window=3)
    assert (list(stored(window).hashes), stored(window).window) == ([2], 3)


def test_a_store_from_the_first_block_on_may_report_reuse_unless_it_follows_a_removal() -> None:
    first = as_map(parent_block_hash=None)
    removed = ["BlockRemoved", [9], "GPU", 0]
    assert stored(first).reuse is Reuse.POSSIBLE
    assert stored(as_map()).reuse is Reuse.NO
    assert stored({**first, "kv_cache_spec_kind": None}).reuse is Reuse.NO
    assert _reuse([removed, first]) == [Reuse.NO]
    assert _reuse([first, as_map(block_hashes=[3, 4], parent_block_hash=2)]) == [Reuse.FOLLOWED_BY_STORE, Reuse.NO]
    assert _reuse([first, {**first, "group_idx": 1}]) == [Reuse.POSSIBLE, Reuse.SAME_AS_PREVIOUS_GROUP]
    assert _reuse([removed, first, {**first, "group_idx": 1}]) == [Reuse.NO, Reuse.NO]


def _reuse(events: list[Any]) -> list[Reuse]:
    return [event.reuse for event in read_batch(packed(events)).events if isinstance(event, Stored)]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (as_map(block_hashes=None), "block hashes"),
        (as_map(block_hashes=["x"]), "block hashes"),
        (as_map(block_hashes=[1.5, 2]), "block hashes"),
        (as_map(parent_block_hash=[]), "block hashes"),
        (as_map(token_ids=[0, 1, 2]), "token count"),
        (as_map(token_ids=[0, 1]), "token count"),
        (as_map(token_ids=[0, 1, 2, -1]), "token ids"),
        (as_map(token_ids=[0, 1, 2, 2**32]), "token ids"),
        (as_map(token_ids={"a": 1}), "token ids"),
        (as_map(block_size=0), "block size"),
        (as_map(block_size=-2), "block size"),
        (as_map(block_size=2**40), "block size"),
        (as_map(medium="TAPE"), "medium"),
        (as_map(medium=4), "medium"),
        (as_map(extra_keys=[3]), "extra keys"),
        (as_map(lora_name=3), "lora name"),
        (as_map(group_idx="a"), "group idx"),
        ({"type": "BlockMoved"}, "unknown event"),
        (["BlockMoved", 1], "unknown event"),
        ({"block_hashes": []}, "unknown event"),
        ([], "no event"),
        (5, "no event"),
    ],
)
def test_an_event_that_cannot_be_read_is_counted_and_the_others_are_read(event: object, reason: str) -> None:
    batch = read_batch(packed([["BlockRemoved", [1]], event, ["BlockRemoved", [2]]]))
    assert [type(read) for read in batch.events] == [Removed, Removed]
    assert batch.unread == {reason: 1}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no msgpack"),
        (b"\xc1", "no msgpack"),
        (b"\xdd\xff\xff\xff\xff", "no msgpack"),
        (b"\x91" * 100_000, "no msgpack"),
        (packed([])[:-1], "no msgpack"),
        (packed([]) + b"\x00", "no msgpack"),
        (msgspec.msgpack.encode(5), "no batch"),
        (msgspec.msgpack.encode([1.0]), "no events"),
        (msgspec.msgpack.encode({"ts": 1.0}), "no events"),
        (packed("text"), "no events"),
        (packed([], "first"), "no rank"),
        (packed([], -1), "no rank"),
    ],
)
def test_a_batch_that_cannot_be_read_says_why(payload: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        read_batch(payload)


def test_a_removal_may_say_how_many_copies_are_left() -> None:
    event = {"type": "BlockRemoved", "block_hashes": [1, 2], "medium": "GPU", "remaining_copy_counts": [1, 0]}
    (removed,) = read_batch(packed([event])).events
    assert isinstance(removed, Removed)
    assert removed.copies_left == [1, 0]


def test_what_mooncake_s_pool_holds_is_read_by_the_engine_s_own_hashes() -> None:
    stored_there = {"event_type": "stored", "seq_hashes": [1, 2], "medium": "CPU", "tenant_id": "t"}
    removed_there = {"event_type": "removed", "seq_hashes": [2], "medium": "CPU"}
    cleared_there = {"event_type": "cleared", "tenant_id": "default"}
    one, other, last = read_batch(packed([stored_there, removed_there, cleared_there])).events
    assert last == Cleared(Tier.STORAGE)
    assert isinstance(one, Stored)
    assert (list(one.hashes), one.tokens, one.tier) == ([1, 2], array("I"), Tier.CPU)
    assert isinstance(other, Removed)
    assert (list(other.hashes), other.tier) == ([2], Tier.CPU)


def test_windows_come_after_the_full_attention_that_names_their_blocks() -> None:
    window = as_map(block_hashes=[2], group_idx=0, kv_cache_spec_kind="sliding_window", kv_cache_spec_sliding_window=3)
    full = as_map(group_idx=1, kv_cache_spec_kind="full_attention")
    events = read_batch(packed([window, full])).events
    assert [event.group for event in events if isinstance(event, Stored)] == [1, 0]


def test_events_of_the_device_come_before_those_of_connectors_and_tell_whose_pool_was_cleared() -> None:
    cleared = {"type": "AllBlocksCleared"}
    device = {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"}
    below = {"type": "BlockRemoved", "block_hashes": [1], "medium": "CPU"}

    def pools(*events: object) -> list[Tier | None]:
        return list(emptied_pools(read_batch(packed(list(events))).events))

    assert pools(cleared) == pools(device, cleared) == pools(cleared, below) == [None]
    assert pools(cleared, device) == pools(cleared, device, below) == [Tier.GPU]
    assert pools(device, below, cleared) == [Tier.CPU]
    assert pools(cleared, device, below, cleared) == [Tier.GPU, Tier.CPU]
