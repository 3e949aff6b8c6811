from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.contract.endpoints import Endpoint
from service.contract.pods import parse_pods
from service.events.pool import StreamReport
from service.events.stream_states import REASONS, Replay
from service.fleet.registry import Learned, Registry, ServedModel
from service.index.base import Rank
from service.prompts.errors import ModelNotFound
from service.readiness import Readiness
from tests.conftest import BUILTIN
from tests.service.conftest import Serve
from tests.waiting import PATIENCE


async def test_the_service_becomes_ready_when_the_files_of_its_model_appear(
    serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "cache"))
    client = await serve(model_name="org/late", hub_retry_after=0.1)
    async with asyncio.timeout(PATIENCE):
        reasons: list[str] = []
        while not reasons or "being loaded" in reasons[0]:
            async with client.get("/ready") as answer:
                assert answer.status == 503
                reasons = (await answer.json())["reasons"]
        assert "org/late" in reasons[0]
        shutil.copytree(BUILTIN, folder / "models" / "org" / "late")
        while (await client.get("/ready")).status != 200:
            pass
        async with client.post("/score", json={"prompt": "a text for the default model"}) as answer:
            assert (answer.status, await answer.json()) == (200, None)


@dataclass
class ReplayingPool:
    """A pool of which one rank is being replayed."""

    reason: str | None = REASONS[Replay.CATCHING_UP]
    unasked_endpoints: int = 0

    def unasked(self, endpoints: Iterable[Endpoint]) -> int:
        return self.unasked_endpoints + sum(endpoint.address == "tcp://a:2" for endpoint in endpoints)

    def streams(self) -> list[Any]:
        rank = Rank("a:1", "builtin/demo")
        return [StreamReport(rank, "tcp://a:1", 5, 1.0, self.reason is None, self.reason, connected=True)]

    def problems(self) -> list[str]:
        return []


@pytest.mark.parametrize(("timeout", "waits"), [(3600.0, True), (0.0, False)])
def test_the_service_is_ready_when_replays_are_done_or_have_taken_too_long(timeout: float, waits: bool) -> None:
    pool: Any = ReplayingPool()
    models: Any = None
    readiness = Readiness("builtin/demo", 1.0, models, pool, Registry(), replay_timeout=timeout)
    assert any("READY_REPLAY_TIMEOUT" in reason for reason in readiness.reasons()) == waits
    pool.reason = None
    assert not any("READY_REPLAY_TIMEOUT" in reason for reason in readiness.reasons())


def test_the_service_waits_until_each_pod_has_told_what_it_holds() -> None:
    pool: Any = ReplayingPool(reason=None)
    models: Any = None
    fleet = Registry()
    readiness = Readiness("builtin/demo", 1.0, models, pool, fleet, replay_timeout=3600.0)

    def waits() -> bool:
        return any("not told yet" in reason for reason in readiness.reasons())

    pod = fleet.add(parse_pods("http://a:1")[0])
    assert waits()  # nobody knows whether it is there
    pod.healthy = False
    assert not waits()
    pod.healthy, pod.learned = True, Learned((), (Endpoint("tcp://a:2", replay="tcp://a:3"),))
    assert waits()  # its events are not connected
    pod.learned = Learned(())
    pool.unasked_endpoints = 1
    assert waits()  # an engine is asked for its first batch
    pool.unasked_endpoints = 0
    assert not waits()


def test_the_default_model_is_not_needed_where_the_pods_list_others() -> None:
    pool: Any = ReplayingPool(reason=None)
    models: Any = None
    fleet = Registry()
    readiness = Readiness("org/default", 1.0, models, pool, fleet)
    assert readiness.reasons() == ["org/default is being loaded"]
    pod = fleet.add(parse_pods("http://h:1")[0])
    assert readiness.reasons() == ["no pod can take requests"]
    pod.healthy = True
    assert readiness.reasons() == ["org/default is being loaded"]
    pod.learned = Learned((ServedModel("org/other"),))
    assert readiness.reasons() == []
    pod.learned = Learned((ServedModel("org/default"),))
    assert readiness.reasons() == ["org/default is being loaded"]


class NoModels:
    """A catalog without models."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def get(self, name: str) -> None:
        self.asked.set()
        raise ModelNotFound(f"there is no {name}")


@pytest.mark.parametrize("pods", ["", "http://h:1"])
async def test_a_missing_default_model_is_warned_of_unless_pods_may_serve_others(
    pods: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool: Any = ReplayingPool(reason=None)
    models: Any = NoModels()
    fleet = Registry()
    for entry in parse_pods(pods):
        fleet.add(entry)
    caplog.set_level(logging.INFO)
    loading = asyncio.create_task(Readiness("org/m", 3600.0, models, pool, fleet).load_default_model())
    await models.asked.wait()
    loading.cancel()
    assert [record.levelno for record in caplog.records] == [logging.INFO if pods else logging.WARNING]
