"""Every prediction for a real engine is what the engine then reuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.real_vllm.chats import WITH_TOOLS, converse, gateway_to
from tests.real_vllm.conftest import Models, Serving
from tests.real_vllm.predictions import Conversations, Kind, Oracle, crowd
from tests.real_vllm.predictions import converse as converse_with
from tests.real_vllm.servers import BLOCK_SIZE, until

PLAIN = [Kind()]
SALTED = [Kind(), Kind(cache_salt="a"), Kind(cache_salt="b")]


def conversations_of(oracle: Oracle, seed: int) -> Conversations:
    config = json.loads((oracle.engine.model / "config.json").read_text())
    return Conversations(seed, config["vocab_size"])


def test_full_attention_with_evictions_loras_salts_and_a_restart(serving: Serving, models: Models) -> None:
    adapter = f"x={models('granite')}-lora"
    oracle = serving(
        "granite",
        *("--num-gpu-blocks-override", "80", "--max-num-batched-tokens", "256"),
        *("--enable-lora", "--max-lora-rank", "8", "--lora-modules", adapter),
    )
    kinds = [*SALTED, Kind(lora_name="x"), Kind(lora_name="x", cache_salt="a")]
    conversations = conversations_of(oracle, 1)
    converse_with(oracle, conversations, kinds, 60)
    crowd(oracle, conversations, kinds, 4)
    oracle.engine.stop()
    oracle.engine.start()
    oracle.engine.wait()
    converse_with(oracle, conversations, kinds, 20)
    assert oracle.wrong == []
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 20


@pytest.mark.parametrize("kind", ["gemma3", "gpt_oss"])
def test_sliding_windows_beside_full_attention_with_evictions_and_salts(serving: Serving, kind: str) -> None:
    oracle = serving(kind, "--num-gpu-blocks-override", "300", "--max-num-batched-tokens", "256")
    conversations = conversations_of(oracle, 2)
    converse_with(oracle, conversations, SALTED, 40)
    crowd(oracle, conversations, PLAIN, 3)
    assert oracle.wrong == []
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 10


def test_a_window_in_every_layer_is_predicted_or_marked(serving: Serving) -> None:
    """Nothing tells a prompt that ends on a block's border from a longer one; see service/index/windows.py."""
    oracle = serving("sliding", "--num-gpu-blocks-override", "300", "--max-num-batched-tokens", "256")
    conversations = conversations_of(oracle, 2)
    converse_with(oracle, conversations, PLAIN, 40)
    assert oracle.wrong_claims == []
    assert len(oracle.wrong) < 10
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 10


def test_requests_for_log_probabilities_of_the_prompt_reuse_nothing_and_store_it(serving: Serving) -> None:
    oracle = serving("granite", "--num-gpu-blocks-override", "300")
    conversations = conversations_of(oracle, 4)
    known = conversations.tokens(10 * BLOCK_SIZE + 5)
    oracle.ask(known, Kind())
    skipping: list[dict[str, Any]] = [{"prompt_logprobs": 0}, {"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}]
    for fields in skipping:
        other = conversations.tokens(10 * BLOCK_SIZE + 5)
        before = len(oracle.predictions)
        oracle.ask(known, Kind(), **fields)
        oracle.ask(other, Kind(), **fields)
        assert [prediction.reused for prediction in oracle.predictions[before:]] == [0, 0]
        oracle.ask(known, Kind(), logprobs=1)
        oracle.ask(other, Kind())
        assert all(prediction.reused for prediction in oracle.predictions[before + 2 :])
    assert oracle.wrong == []


def test_two_data_parallel_ranks_each_with_a_cache_of_its_own(serving: Serving, tmp_path: Path) -> None:
    oracle = serving(
        "granite",
        *("--data-parallel-size", "2", "--api-server-count", "1", *WITH_TOOLS),
        *("--num-gpu-blocks-override", "80", "--max-num-batched-tokens", "256"),
        ranks=2,
    )
    conversations = conversations_of(oracle, 3)
    converse_with(oracle, conversations, [Kind(rank=0), Kind(rank=1)], 40)
    assert oracle.wrong == []
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 10
    # A gateway that is given the URL alone learns both ranks, and what they hold from their replays.
    engine = oracle.engine
    with gateway_to(engine, models_dir=tmp_path / "models") as gateway:
        until(lambda: gateway.fleet()[engine.pod]["ranks"] == 2)
        gateway.settle(engine)
        answers = converse(gateway, [engine], 40, 4)
    assert [answer for answer in answers if answer.predicted != answer.reused] == []
    assert {answer.rank for answer in answers} == {0, 1}
