from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from service.contract.demo_lines import Ended, Routed
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from service.simulation.chat_client import ChatAnswer, ChatClient, ChatRefused
from service.simulation.conversations import Conversations
from service.simulation.demonstration import Demonstration, Limits
from service.simulation.policies import Policy, at_random, cache_aware, round_robin
from service.simulation.scheduler import Speed
from service.simulation.server import EngineOptions, EngineServer, serving
from service.simulation.service_client import ServiceClient
from tests.service.conftest import Serve, url_of

MODEL = "builtin/demo"
PREFILL_RATE = 100_000.0


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    models = Models(PromptOptions())
    yield await models.get(MODEL)
    await models.close()


async def engines(model: Model, stack: AsyncExitStack, blocks: int = 256) -> dict[str, EngineServer]:
    """Three engines, by name."""
    names = [f"engine-{number}" for number in range(3)]
    options = [
        EngineOptions([MODEL], blocks=blocks, seed=seed, topic=f"kv@{name}@{MODEL}", speed=Speed(PREFILL_RATE))
        for seed, name in enumerate(names)
    ]
    return {
        name: await stack.enter_async_context(serving(one, model)) for name, one in zip(names, options, strict=True)
    }


async def play(
    serve: Serve, model: Model, limits: Limits, *, forgets: bool = False, blocks: int = 256
) -> tuple[list[Routed], Ended]:
    """Plays through the gateway of a real service.

    With `forgets`, the engine of the tenth request drops its cache after it without an event.
    """
    url = url_of(await serve())
    async with AsyncExitStack() as stack:
        rotated, drawn = [[one.url for one in (await engines(model, stack, blocks)).values()] for _ in range(2)]
        routed_to = await engines(model, stack, blocks)
        service = await stack.enter_async_context(ServiceClient(url, MODEL))
        for name, engine in routed_to.items():
            await service.add_pod(name, engine.url)
            await engine.ranks[0].publisher.subscribed()
        chats = await stack.enter_async_context(ChatClient(MODEL))
        others = [round_robin(rotated, chats), at_random(drawn, chats, seed=1)]
        demonstration = Demonstration(routed_to, cache_aware(url, chats), others, model, service)
        routed: list[Routed] = []
        async for line in demonstration.run(Conversations(7, concurrency=12), limits):
            if isinstance(line, Ended):
                return routed, line
            routed.append(line)
            if line.number == 10 and forgets:
                routed_to[line.pod].ranks[0].cache.clear()
    raise AssertionError("it never ended")


async def test_every_prediction_is_true_and_cache_aware_routing_reuses_most(serve: Serve, model: Model) -> None:
    routed, ended = await play(serve, model, Limits(requests=80, seconds=None, rate=None))
    assert ended.differences == []
    assert ended.predictions == 80 * 4
    assert len(routed) == ended.requests == 80
    rates = {tally.policy: tally.reused_tokens / tally.prompt_tokens for tally in ended.policies}
    # By how much depends on how busy this machine is, since speeds are learned from times to first token.
    assert rates["cache-aware"] > max(rates["round robin"], rates["random"])
    assert len({tally.prompt_tokens for tally in ended.policies}) == 1
    assert sum(pod.requests for pod in ended.pods) == 80
    assert sum(pod.reused_tokens for pod in ended.pods) == ended.policies[0].reused_tokens
    assert any(pod.evictions for pod in ended.pods)
    for request in routed:
        assert request.predicted == request.held
        assert 0 <= request.predicted[request.pod] - request.reused <= 16
        assert (request.cached_characters > 0) == (request.reused > 0)


async def test_no_first_token_comes_before_the_uncached_tokens_are_computed(serve: Serve, model: Model) -> None:
    routed, ended = await play(serve, model, Limits(requests=20, seconds=None, rate=None))
    for request in routed:
        assert request.first_token["cache-aware"] >= (request.prompt_tokens - request.reused) / PREFILL_RATE
    for policy, tally in zip(("cache-aware", "round robin", "random"), ended.policies, strict=True):
        times = sorted(request.first_token[policy] for request in routed)
        assert tally.first_token_mean == pytest.approx(sum(times) / 20, abs=1e-5)
        assert (tally.first_token_p50, tally.first_token_p99) == (times[10], times[19])


async def test_small_caches_that_evict_at_once_show_no_difference(serve: Serve, model: Model) -> None:
    _, ended = await play(serve, model, Limits(requests=40, seconds=None, rate=None), blocks=128)
    assert ended.differences == []
    assert sum(pod.evictions for pod in ended.pods) > 200


async def test_an_engine_that_drops_blocks_without_an_event_shows_as_differences(serve: Serve, model: Model) -> None:
    routed, ended = await play(serve, model, Limits(requests=40, seconds=None, rate=None), forgets=True)
    assert not any(request.differences for request in routed[:10])
    assert any("whose cache holds 0" in difference for difference in ended.differences)
    assert any(f"in the end {routed[9].pod} holds" in difference for difference in ended.differences)
    assert all(routed[9].pod in difference for difference in ended.differences)


async def test_a_prediction_of_the_gateway_that_is_not_what_the_engine_reuses_is_a_difference(
    serve: Serve, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Policy.ask

    async def told_less(policy: Policy, messages: list[dict[str, str]]) -> ChatAnswer:
        answer = await ask(policy, messages)
        return replace(answer, cached_tokens=answer.cached_tokens + 16)

    monkeypatch.setattr(Policy, "ask", told_less)
    routed, _ = await play(serve, model, Limits(requests=8, seconds=None, rate=None))
    (by_index,) = routed[0].differences  # nothing was heard of any pod: the gateway's prediction is inexact
    assert "should have reused 0 tokens and reused 16" in by_index
    by_index, by_gateway = next(one.differences for one in routed if len(one.differences) > 1)
    assert "and reused" in by_index
    assert "the gateway predicted" in by_gateway


async def test_a_prompt_that_no_cache_can_hold_is_refused(serve: Serve, model: Model) -> None:
    with pytest.raises(ChatRefused, match="the engine takes 303"):
        await play(serve, model, Limits(requests=3, seconds=None, rate=None), blocks=20)


async def test_a_run_ends_after_its_duration(serve: Serve, model: Model) -> None:
    routed, ended = await play(serve, model, Limits(requests=None, seconds=0.3, rate=20))
    assert len(routed) <= 0.3 * 20 + 1
    assert ended.seconds >= 0.3
