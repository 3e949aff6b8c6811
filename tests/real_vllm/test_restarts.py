"""A kvcache that ends and starts again beside real engines, and two replicas of it: what they predict is true."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from service.replicas.snapshot_file import SnapshotFile
from tests.ports import unassigned_port
from tests.real_vllm.chats import WITH_TOOLS, Answered, ask, converse, gateway_to, wrong
from tests.real_vllm.conftest import Models
from tests.real_vllm.servers import Engine, Kvcache, until
from tests.service.replicas.shared.valkey_server import ValkeyServer

OPTIONS = ("--num-gpu-blocks-override", "300", "--max-num-batched-tokens", "512", *WITH_TOOLS)
_CHATS = 11
"""The seed of the chats: a second conversation with it begins with the same prompts."""


@pytest.fixture(scope="module")
def engines(vllm: Path, models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    folder = tmp_path_factory.mktemp("restarts")
    started = [Engine(vllm, models("granite"), OPTIONS, folder / f"{number}.log") for number in range(2)]
    try:
        for engine in started:
            engine.start()
        for engine in started:
            engine.wait()
        yield started[0], started[1]
    finally:
        for engine in started:
            engine.stop()


@contextmanager
def keeping(engines: tuple[Engine, Engine], folder: Path) -> Iterator[Kvcache]:
    """A kvcache that is ready, and writes a snapshot into a folder each second."""
    (state := folder / "state").mkdir(exist_ok=True)
    own = {"STATE_DIR": str(state), "SNAPSHOT_INTERVAL": "1s"}
    with gateway_to(*engines, models_dir=folder / "models", **own) as kvcache:
        until(kvcache.is_ready)
        yield kvcache


def converse_until_snapshot(kvcache: Kvcache, engines: tuple[Engine, Engine], folder: Path) -> list[Answered]:
    """Chats, nearly all of whose blocks are in a snapshot by then."""
    answers = converse(kvcache, engines, 20, _CHATS)
    snapshot = SnapshotFile(folder / "state").path
    before_last = time.time()
    # The last snapshot may hold all of these already; blocks that no engine has seen make one more certain.
    answers.append(ask(kvcache, [{"role": "user", "content": uuid4().hex * 8}]))
    for engine in engines:
        kvcache.settle(engine)
    until(lambda: snapshot.exists() and snapshot.stat().st_mtime > before_last)
    return answers


def test_a_service_that_is_killed_and_started_again_predicts_what_engines_reuse(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    with keeping(engines, tmp_path) as kvcache:
        answers = converse_until_snapshot(kvcache, engines, tmp_path)
        answers += converse(kvcache, engines, 10, _CHATS + 1)  # replays bring what is newer than the snapshot
        kvcache.kill()
    assert wrong(answers) == []
    with keeping(engines, tmp_path) as kvcache:
        again = converse(kvcache, engines, 30, _CHATS)
    assert wrong(again) == []
    assert again[0].basis != "events, inexact"
    assert again[0].predicted == again[0].reused > 0


def test_blocks_of_an_engine_that_restarts_while_the_service_is_down_are_never_predicted(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    with keeping(engines, tmp_path) as kvcache:
        converse_until_snapshot(kvcache, engines, tmp_path)
        kvcache.kill()
    for engine in engines:
        engine.kill(signal.SIGKILL)
        engine.start()
    for engine in engines:
        engine.wait()
    with keeping(engines, tmp_path) as kvcache:
        answers = converse(kvcache, engines, 20, _CHATS)
    assert wrong(answers) == []
    assert (answers[0].predicted, answers[0].reused) == (0, 0)


def test_two_replicas_that_meet_in_a_valkey_both_predict_what_engines_reuse(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer(unassigned_port(), tmp_path))
        replicas: list[Kvcache] = []
        for number in range(2):
            gateway = gateway_to(*engines, models_dir=tmp_path / f"models-{number}", SHARED_STATE=valkey.url)
            replicas.append(stack.enter_context(gateway))
        for replica in replicas:
            until(replica.is_ready)
        answers = []
        for turn in range(6):  # each chat goes on at the other replica
            answers += converse(replicas[turn % 2], engines, 6, 40)
            for replica in replicas:
                for engine in engines:
                    replica.settle(engine)
    assert wrong(answers) == []
    assert sum(answer.reused for answer in answers) > sum(answer.tokens for answer in answers) / 2
