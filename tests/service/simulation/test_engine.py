from __future__ import annotations

import base64
import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import msgpack
import pytest

from service.simulation.engine import SimulatedEngine


def recorded_requests(recordings: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (recordings / f"{name}.requests.jsonl").read_text().splitlines()]


def recorded_batches(recordings: Path, name: str) -> dict[int, list[dict[str, Any]]]:
    batches = {}
    for line in (recordings / f"{name}.jsonl").read_text().splitlines():
        message = json.loads(line)
        sequence = int.from_bytes(base64.b64decode(message["seq"]), "big")
        batches[sequence] = msgpack.unpackb(base64.b64decode(message["payload"]))[1]
    return batches


@pytest.mark.parametrize("name", ["a_simple", "b3_copy_left", "d_int", "d_bytes"])
def test_it_reuses_stores_and_evicts_the_same_blocks_as_real_vllm(recordings: Path, name: str) -> None:
    truth = json.loads((recordings / f"{name}.truth.json").read_text())
    (pod,) = truth["pods"].values()
    engine = SimulatedEngine(int(pod["args"][pod["args"].index("--num-blocks") + 1]), truth["block_size"])
    batches = recorded_batches(recordings, name)
    renamed: dict[Any, Any] = {}

    for request in recorded_requests(recordings, name):
        if request.get("op") == "probe":
            assert engine.cached_tokens(request["tokens"]) == 16 * request["leading_blocks"]
            continue
        served = engine.serve(request["tokens"])
        assert served.cached_tokens == request["cached_tokens"]
        real = [batches[sequence] for sequence in request["seqs"]]
        assert [[event["type"] for event in batch] for batch in served.batches] == [
            [event["type"] for event in batch] for batch in real
        ]
        for ours, theirs in zip(chain(*served.batches), chain(*real), strict=True):
            assert ours.get("token_ids") == theirs.get("token_ids")
            for our_hash, their_hash in zip(ours["block_hashes"], theirs["block_hashes"], strict=True):
                assert renamed.setdefault(our_hash, their_hash) == their_hash

    held = Counter(renamed[name] for name in engine.held_hashes())
    final = {int(key) if key.isdecimal() else bytes.fromhex(key): n for key, n in truth["final"].popitem()[1].items()}
    assert held == final


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    engine = SimulatedEngine(blocks=9, block_size=4)
    engine.serve(range(8))
    assert engine.cached_tokens(range(8)) == 8
    assert engine.serve(range(8)).cached_tokens == 4
    assert engine.serve(range(9)).cached_tokens == 8


def test_generated_tokens_are_cached_except_the_last() -> None:
    engine = SimulatedEngine(blocks=9, block_size=4)
    served = engine.serve(range(6), output=range(6, 8))
    assert [event["token_ids"] for batch in served.batches for event in batch] == [[0, 1, 2, 3]]
    assert engine.serve(range(9)).cached_tokens == 4


def test_a_full_cache_evicts_the_least_recently_used_block() -> None:
    engine = SimulatedEngine(blocks=5, block_size=4)
    engine.serve(range(100, 108))
    engine.serve(range(200, 208))
    served = engine.serve(range(300, 304))
    assert served.evicted == 1
    assert engine.cached_tokens(range(100, 108)) == 4
    assert engine.cached_tokens(range(200, 208)) == 8


def test_a_request_larger_than_the_cache_is_refused_and_changes_nothing() -> None:
    engine = SimulatedEngine(blocks=3, block_size=4)
    engine.serve(range(8))
    with pytest.raises(ValueError, match="12 tokens do not fit into 2 blocks of 4"):
        engine.serve(range(12))
    assert engine.cached_tokens(range(8)) == 8


def test_engines_with_different_seeds_have_different_block_hashes() -> None:
    first, second = (SimulatedEngine(blocks=3, block_size=4, seed=seed) for seed in (1, 2))
    assert first.serve(range(4)).batches != second.serve(range(4)).batches


def test_a_cleared_engine_reuses_nothing() -> None:
    engine = SimulatedEngine(blocks=9, block_size=4)
    engine.serve(range(9))
    assert engine.clear() == [{"type": "AllBlocksCleared"}]
    assert engine.held == 0
    assert engine.serve(range(9)).cached_tokens == 0
