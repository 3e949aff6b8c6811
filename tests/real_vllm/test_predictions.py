"""Every prediction for a real engine is what the engine then reuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.real_vllm.conftest import Models, Serving
from tests.real_vllm.predictions import Kind, converse, crowd
from tests.real_vllm.servers import BLOCK_SIZE

PLAIN = [Kind()]
SALTED = [Kind(), Kind(cache_salt="a"), Kind(cache_salt="b")]


def test_full_attention_with_evictions_loras_salts_and_a_restart(serving: Serving, models: Models) -> None:
    adapter = f"x={models('granite')}-lora"
    oracle = serving(
        "granite",
        *("--num-gpu-blocks-override", "80", "--max-num-batched-tokens", "256"),
        *("--enable-lora", "--max-lora-rank", "8", "--lora-modules", adapter),
    )
    kinds = [*SALTED, Kind(lora_name="x"), Kind(lora_name="x", cache_salt="a")]
    conversations = oracle.conversations(1)
    converse(oracle, conversations, kinds, 60)
    crowd(oracle, conversations, kinds, 4)
    oracle.engine.stop()
    oracle.engine.start()
    oracle.engine.wait()
    oracle.kvcache.hears_anew(oracle.engine)
    converse(oracle, conversations, kinds, 20)
    assert oracle.wrong == []
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 20


@pytest.mark.parametrize("kind", ["gemma3", "gpt_oss"])
def test_sliding_windows_beside_full_attention_with_evictions_and_salts(serving: Serving, kind: str) -> None:
    oracle = serving(kind, "--num-gpu-blocks-override", "300", "--max-num-batched-tokens", "256")
    conversations = oracle.conversations(2)
    converse(oracle, conversations, SALTED, 40)
    crowd(oracle, conversations, PLAIN, 3)
    assert oracle.wrong == []
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 10


def test_a_window_in_every_layer_is_predicted_or_marked(serving: Serving) -> None:
    """Nothing tells a prompt that ends on a block's border from a longer one; see service/index/windows.py."""
    oracle = serving("sliding", "--num-gpu-blocks-override", "300", "--max-num-batched-tokens", "256")
    conversations = oracle.conversations(2)
    converse(oracle, conversations, PLAIN, 40)
    assert oracle.wrong_claims == []
    assert len(oracle.wrong) < 10
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 10


def test_requests_for_log_probabilities_of_the_prompt_reuse_nothing_and_store_it(serving: Serving) -> None:
    oracle = serving("granite", "--num-gpu-blocks-override", "300")
    conversations = oracle.conversations(4)
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
