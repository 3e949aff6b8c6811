"""`python -m service examine`, as a process of its own, against simulated engines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.contract.examined import Examined, read_examined
from service.simulation.server import VERSION, EngineServer, Part
from tests.command import free_port
from tests.conftest import ROOT
from tests.service.engines import MODEL, StartEngine, engine_starter


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    async with engine_starter() as start:
        yield start


async def examine(*pods: str) -> list[Examined]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "examine", f"--pods={','.join(pods)}"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [read_examined(line) for line in output.decode().splitlines()]


async def test_an_engine_that_works_is_heard_while_it_answers_and_reuses_a_repeated_prompt(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine(served_models=["alias"], ranks=2)
    (found,) = await examine(engine.url)
    assert (found.pod, found.problem, found.unanswered) == (engine.pod, None, None)
    assert (found.engine, found.version, found.models, found.root) == ("vllm", VERSION, ["alias"], MODEL)
    assert (found.tells_sources, found.tells_reuse) == (True, True)
    assert found.reused_tokens > 0
    for source, rank in zip(found.sources, engine.ranks, strict=True):
        assert (source.address, source.replay) == (rank.publisher.address, rank.publisher.replay)
        assert (source.connected, source.replay_problem, source.block_sizes) == (True, None, [16])
        assert source.messages > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"without": {Part.EVENTS}}, {"tells_sources": True, "sources": []}),
        ({"without": {Part.EVENT_SOURCES}}, {"tells_sources": False, "sources": []}),
        ({"without": {Part.PROMPT_TOKENS_DETAILS}}, {"tells_reuse": False}),
    ],
)
async def test_what_an_engine_lacks_is_told(
    start_engine: StartEngine, options: dict[str, Any], told: dict[str, Any]
) -> None:
    (found,) = await examine((await start_engine(**options)).url)
    assert {name: getattr(found, name) for name in told} == told
    assert found.unanswered is None


async def test_an_engine_without_a_replay_socket_or_with_a_wrong_host_is_told_by_its_sources(
    start_engine: StartEngine,
) -> None:
    bare: EngineServer = await start_engine(without={Part.REPLAY})
    wrong: EngineServer = await start_engine(announced_host="127.0.0.9")
    one, other = await examine(bare.url, wrong.url)
    assert (one.sources[0].messages > 0, one.sources[0].replay) == (True, None)
    assert (other.sources[0].connected, other.tells_reuse) == (False, True)
    assert other.sources[0].address.startswith("tcp://127.0.0.9:")


async def test_an_engine_that_is_not_there_is_told_with_the_events_that_the_operator_names() -> None:
    url, address = f"http://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"
    (found,) = await examine(f"{url},name=a,events={address}")
    assert "Connect call failed" in (found.problem or "")
    assert [(source.address, source.connected) for source in found.sources] == [(address, False)]


async def test_sockets_that_only_the_engines_machine_reaches_are_not_opened(start_engine: StartEngine) -> None:
    engine = await start_engine()
    (found,) = await examine(f"{engine.url},events=ipc:///tmp/kvcache-of-another-machine")
    assert "own machine" in (found.sources[0].problem or "")
