from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.conftest import BUILTIN, ROOT
from tests.real_vllm.predictions import Oracle
from tests.real_vllm.servers import Engine, running_kvcache

Models: TypeAlias = Callable[[str], Path]
Serving: TypeAlias = Callable[..., Oracle]
StartEngine: TypeAlias = Callable[..., Engine]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def vllm() -> Path:
    """The `vllm` command of a real vLLM for CPUs: KVCACHE_VLLM, or the one on PATH."""
    found = os.environ.get("KVCACHE_VLLM") or shutil.which("vllm")
    if found is None:
        pytest.skip("no vLLM: scripts/real_vllm/install FOLDER installs one, KVCACHE_VLLM=FOLDER/bin/vllm names it")
    return Path(found)


@pytest.fixture(scope="session")
def models(vllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Makes a model of random weights of a kind, with a LoRA adapter beside it, named KIND-lora."""
    folder = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        model = folder / kind
        if not model.exists():
            script = ROOT / "scripts" / "real_vllm" / "tiny_model.py"
            command = (vllm.with_name("python"), script, BUILTIN, model, kind, "--lora", f"{model}-lora")
            subprocess.run([*map(str, command)], check=True, capture_output=True)
        return model

    return make


@pytest.fixture
def serving(vllm: Path, models: Models, tmp_path: Path) -> Iterator[Serving]:
    """Starts a vLLM of a kind of model, with more options of `vllm serve`, and a kvcache beside it."""
    with ExitStack() as stack:

        def start(kind: str, *options: str, ranks: int = 1) -> Oracle:
            engine = Engine(vllm, models(kind), options, tmp_path / f"{kind}.log", ranks)
            stack.enter_context(_running(engine))
            kvcache = stack.enter_context(running_kvcache([engine], tmp_path / "models"))
            return Oracle(engine, kvcache)

        yield start


@pytest.fixture
def engine(vllm: Path, models: Models, tmp_path: Path) -> Iterator[StartEngine]:
    """Starts a vLLM of a kind of model under a name, with more options of `vllm serve`."""
    with ExitStack() as stack:

        def start(kind: str, name: str, *options: str, port: int = 0) -> Engine:
            started = Engine(vllm, models(kind), options, tmp_path / f"{kind}.log", name=name, port=port)
            stack.enter_context(_running(started))
            return started

        yield start


@contextmanager
def _running(engine: Engine) -> Iterator[None]:
    try:
        engine.start()
        engine.wait()
        yield
    finally:
        engine.stop()
