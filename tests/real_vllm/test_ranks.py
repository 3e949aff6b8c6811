"""The data-parallel ranks of one real engine."""

from __future__ import annotations

from pathlib import Path

from tests.real_vllm.chats import WITH_TOOLS, gateway_to, wrong
from tests.real_vllm.chats import converse as converse_through
from tests.real_vllm.conftest import Serving
from tests.real_vllm.predictions import Kind, converse
from tests.real_vllm.servers import until


def test_two_data_parallel_ranks_each_with_a_cache_of_its_own(serving: Serving, tmp_path: Path) -> None:
    oracle = serving(
        "granite",
        *("--data-parallel-size", "2", "--api-server-count", "1", *WITH_TOOLS),
        *("--num-gpu-blocks-override", "80", "--max-num-batched-tokens", "256"),
        ranks=2,
    )
    converse(oracle, oracle.conversations(3), [Kind(rank=0), Kind(rank=1)], 40)
    assert oracle.wrong == []
    assert sum(prediction.reused > 0 for prediction in oracle.predictions) > 10
    # A gateway that is given the URL alone learns both ranks, and what they hold from their replays.
    engine = oracle.engine
    with gateway_to(engine, models_dir=tmp_path / "models") as gateway:
        until(lambda: gateway.fleet()[engine.pod]["ranks"] == 2)
        gateway.settle(engine)
        answers = converse_through(gateway, [engine], 40, 4)
    assert wrong(answers) == []
    assert {answer.rank for answer in answers} == {0, 1}
