from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from service.contract.demo_lines import Ended, Routed
from service.contract.endpoints import Endpoint
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from service.simulation.baselines import baselines
from service.simulation.conversations import Conversations
from service.simulation.demonstration import Demonstration, Limits
from service.simulation.engine import SimulatedEngine
from service.simulation.pod import Pod
from service.simulation.service_client import ServiceClient
from tests.command import free_port
from tests.service.conftest import Serve, url_of

MODEL = "builtin/demo"


def engines() -> list[SimulatedEngine]:
    return [SimulatedEngine(256, 16, seed) for seed in range(3)]


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    models = Models(PromptOptions())
    yield await models.get(MODEL)
    await models.close()


async def play(serve: Serve, model: Model, limits: Limits, forgetful: str | None = None) -> tuple[list[Routed], Ended]:
    """Plays against a real service. Pod `forgetful` drops its cache at the tenth request without an event."""
    endpoints = tuple(
        Endpoint(f"tcp://127.0.0.1:{free_port()}", replay=f"tcp://127.0.0.1:{free_port()}") for _ in range(3)
    )
    client = await serve(zmq_endpoint=endpoints)
    async with AsyncExitStack() as stack:
        pods = [
            await stack.enter_async_context(Pod(f"pod-{number}", MODEL, engine, endpoint))
            for number, (engine, endpoint) in enumerate(zip(engines(), endpoints, strict=True))
        ]
        for pod in pods:
            await pod.subscribed()
        service = await stack.enter_async_context(ServiceClient(url_of(client), MODEL))
        demonstration = Demonstration(pods, baselines(engines, seed=1), model, service, 16)
        routed: list[Routed] = []
        async for line in demonstration.run(Conversations(7, concurrency=12), limits):
            if isinstance(line, Ended):
                return routed, line
            routed.append(line)
            if line.number == 10 and forgetful is not None:
                next(pod for pod in pods if pod.name == forgetful).engine.clear()
    raise AssertionError("it never ended")


async def test_every_prediction_is_true_and_cache_aware_routing_reuses_most(serve: Serve, model: Model) -> None:
    routed, ended = await play(serve, model, Limits(requests=150, seconds=None, rate=None))
    assert ended.differences == []
    assert ended.predictions == 150 * 4
    assert len(routed) == ended.requests == 150
    rates = {tally.policy: tally.reused_tokens / tally.prompt_tokens for tally in ended.policies}
    assert rates["cache-aware"] > 1.5 * max(rates["round robin"], rates["random"])
    assert len({tally.prompt_tokens for tally in ended.policies}) == 1
    assert any(pod.evictions for pod in ended.pods)
    for request in routed:
        assert request.predicted == request.held
        assert request.predicted[request.pod] == max(request.predicted.values())
        assert 0 <= request.predicted[request.pod] - request.reused <= 16
        assert (request.cached_characters > 0) == (request.reused > 0)


async def test_an_engine_that_drops_blocks_without_an_event_shows_as_differences(serve: Serve, model: Model) -> None:
    routed, ended = await play(serve, model, Limits(requests=30, seconds=None, rate=None), forgetful="pod-1")
    assert not any(request.differences for request in routed[:10])
    assert any("whose cache holds 0" in difference for difference in ended.differences)
    assert any("should have reused" in difference for difference in ended.differences)
    assert any("in the end pod-1 holds" in difference for difference in ended.differences)
    assert not any("pod-0" in difference for difference in ended.differences)


async def test_a_run_ends_after_its_duration(serve: Serve, model: Model) -> None:
    routed, ended = await play(serve, model, Limits(requests=None, seconds=0.3, rate=20))
    assert len(routed) <= 0.3 * 20 + 1
    assert ended.seconds >= 0.3
