from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.simulation.batched_engine import BatchedEngine, Event, Request, Reused
from service.simulation.cache_groups import CacheGroup
from service.simulation.offload import Offload

WINDOW = CacheGroup("sliding_window", 32, window=128, retention=0)
LONG = tuple(range(1, 100))


def served(engine: BatchedEngine, *requests: Request) -> list[list[Event]]:
    """Submits requests at once and gives the batches of all steps."""
    for request in requests:
        engine.submit(request)
    batches = []
    while engine.busy:
        batches.append(engine.step())
    return batches


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("gemma3_order", (*[WINDOW] * 5, CacheGroup(block_size=32))),
        ("sliding_only", (WINDOW,)),
    ],
)
def test_it_reuses_what_a_whole_vllm_server_reused(recordings: Path, name: str, groups: tuple[CacheGroup, ...]) -> None:
    engine = BatchedEngine(groups, 2000)
    for line in (recordings / "real_vllm" / f"{name}.requests.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert engine.reused(row["tokens"]).tokens == row["cached_tokens"]
        served(engine, Request(tuple(row["tokens"])))


def test_salts_and_loras_are_told_apart() -> None:
    engine = BatchedEngine([CacheGroup()], 60)
    served(engine, Request(LONG, cache_salt="a"))
    assert engine.reused(LONG).tokens == 0
    assert engine.reused(LONG, cache_salt="a").tokens == 96
    assert engine.reused(LONG, lora_name="x", cache_salt="a").tokens == 0


def test_the_same_prompt_twice_at_once_is_cached_twice() -> None:
    engine = BatchedEngine([CacheGroup()], 20)
    served(engine, Request(LONG), Request(LONG))
    ((*removed, _),) = served(engine, Request((7,) * 140))
    assert [event["type"] for event in removed] == ["BlockRemoved"] * 2
    assert engine.reused(LONG).tokens == 96


def test_chunks_are_fetched_whole_from_the_tier_below() -> None:
    engine = BatchedEngine([CacheGroup()], 18, offload=Offload(10, 4))
    served(engine, Request(LONG))
    served(engine, Request((7,) * 200))
    served(engine, Request((8,) * 200))
    assert engine.reused(LONG) == Reused(0, 64)
    assert engine.reused(LONG[:60]) == Reused(0, 0)


def test_two_requests_that_fetch_a_prefix_at_once_announce_it_twice_in_one_batch() -> None:
    engine = BatchedEngine([CacheGroup()], 40, offload=Offload(10))
    served(engine, Request(LONG))
    assert engine.reset()
    _, batch, *_ = served(engine, Request(LONG), Request(LONG))
    stores = [event for event in batch if event["type"] == "BlockStored" and event["medium"] == "GPU"]
    assert [len(event["block_hashes"]) for event in stores] == [6, 6]


def test_a_reset_is_announced_with_the_next_batch_and_leaves_the_tier_below() -> None:
    engine = BatchedEngine([CacheGroup()], 40, offload=Offload(10))
    served(engine, Request(LONG))
    assert engine.reset()
    assert engine.reused(LONG) == Reused(0, 96)
    assert served(engine, Request((7,) * 20))[0][0] == {"type": "AllBlocksCleared"}


def test_a_request_that_computes_all_reuses_nothing_and_is_stored_again() -> None:
    engine = BatchedEngine([CacheGroup()], 60)
    served(engine, Request(LONG))
    ((event,),) = served(engine, Request(LONG, computes_all=True))
    assert len(event["block_hashes"]) == 6


def test_reported_blocks_come_before_what_the_request_stores() -> None:
    engine = BatchedEngine([CacheGroup()], 60)
    served(engine, Request(LONG[:40]))
    ((reported, stored),) = served(engine, Request(LONG, reports=True))
    assert (len(reported["block_hashes"]), len(stored["block_hashes"])) == (2, 4)
    assert reported["parent_block_hash"] is None


def test_a_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="99 tokens do not fit into 4 blocks"):
        BatchedEngine([CacheGroup()], 5).submit(Request(LONG))
