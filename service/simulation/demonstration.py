"""Conversations against simulated engines: each request goes through the gateway, and to other policies' engines.

Each prediction is compared with the engines. The service predicts the leading whole blocks in each engine's cache; the
engine that serves the request reuses the same blocks, except one that ends at the prompt's last token, which vLLM
always computes. The gateway's prediction is compared with the engine's own usage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from service.contract.demo_lines import Ended, PodTally, Routed
from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.models.model import Model
from service.simulation.chat_client import ChatAnswer
from service.simulation.conversations import Conversations, Turn
from service.simulation.policies import Policy
from service.simulation.server import EngineServer
from service.simulation.service_client import Prediction, ServiceClient


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a run; None is no limit. `rate` is in requests per second."""

    requests: int | None
    seconds: float | None
    rate: float | None


class Demonstration:
    """One run."""

    def __init__(
        self,
        engines: Mapping[str, EngineServer],
        cache_aware: Policy,
        others: Sequence[Policy],
        model: Model,
        client: ServiceClient,
    ) -> None:
        """`engines` are the gateway's, by the name of their pod; `cache_aware` asks the gateway."""
        self._engines = engines
        self._policies = [cache_aware, *others]
        self._model = model
        self._client = client
        self._predictions = 0
        self._differences: list[str] = []

    async def run(self, conversations: Conversations, limits: Limits) -> AsyncIterator[Routed | Ended]:
        """Yields a line per request, then the totals. Raises ServiceError, ChatRefused if a cache is too small."""
        begun = time.monotonic()
        number = 0
        messages: list[dict[str, str]] = []
        for turn in conversations:
            elapsed = time.monotonic() - begun
            if number == limits.requests or (limits.seconds is not None and elapsed >= limits.seconds):
                break
            if limits.rate and (early := number / limits.rate - elapsed) > 0:
                await asyncio.sleep(early)
            number += 1
            messages = turn.messages
            routed, reply = await self._route(number, time.monotonic() - begun, turn)
            conversations.answer(turn, reply)
            yield routed
        await self._compare_caches()
        yield Ended(
            time.monotonic() - begun,
            number,
            self._predictions,
            self._differences,
            self._pod_tallies(),
            [policy.tally() for policy in self._policies],
            messages,
        )

    async def _route(self, number: int, seconds: float, turn: Turn) -> tuple[Routed, str]:
        """One request under each policy, and the engines' reply."""
        tokens = (await self._model.render(Chat(messages=turn.messages))).tokens
        prediction = await self._client.predict(turn.messages)
        held = {name: engine.ranks[0].cache.cached_tokens(tokens) for name, engine in self._engines.items()}
        answers = await asyncio.gather(*(policy.ask(turn.messages) for policy in self._policies))
        answer = answers[0]
        pod = answer.headers["X-Kvcache-Pod"]
        await self._client.applied(pod, self._engines[pod].ranks[0].publisher.sequence - 1)
        compared = self._compare(prediction, tokens, held, pod, answer)
        if any(other.text != answer.text or other.prompt_tokens != answer.prompt_tokens for other in answers):
            compared.append("the policies' engines did not get the same request")
        differences = [f"request {number}: {said}" for said in compared]
        self._differences += differences
        tallies = [policy.tally() for policy in self._policies]
        times = (round(one.first_token, 6) for one in answers)
        routed = Routed(
            number=number,
            seconds=round(seconds, 3),
            conversation=turn.conversation,
            turn=turn.number,
            prompt_tokens=len(tokens),
            predicted={name: prediction.matched_tokens.get(name, 0) for name in self._engines},
            held=held,
            pod=pod,
            reused=answer.cached_tokens,
            first_token=dict(zip((tally.policy for tally in tallies), times, strict=True)),
            text=prediction.text,
            cached_characters=prediction.matched_characters.get(pod, 0),
            differences=differences,
            pods=self._pod_tallies(),
            policies=tallies,
        )
        return routed, answer.text

    def _compare(
        self, prediction: Prediction, tokens: TokenIds, held: Mapping[str, int], pod: str, answer: ChatAnswer
    ) -> list[str]:
        differences = []
        if not prediction.prompt_tokens == answer.prompt_tokens == len(tokens):
            differences.append(f"the service counts {prediction.prompt_tokens} tokens, the engine {len(tokens)}")
        for name, count in held.items():
            self._predictions += 1
            if (predicted := prediction.matched_tokens.get(name, 0)) != count:
                differences.append(f"predicted {predicted} tokens for {name}, whose cache holds {count}")
        self._predictions += 1
        block_size = self._engines[pod].ranks[0].cache.block_size
        expected = min(prediction.matched_tokens.get(pod, 0), (len(tokens) - 1) // block_size * block_size)
        if expected != answer.cached_tokens:
            differences.append(f"{pod} should have reused {expected} tokens and reused {answer.cached_tokens}")
        said = answer.headers.get("X-Kvcache-Predicted-Tokens")  # none if it rests on a placement
        is_exact = "inexact" not in answer.headers.get("X-Kvcache-Predicted-From", "")
        if said is not None and is_exact and int(said) != answer.cached_tokens:
            differences.append(f"the gateway predicted {said} tokens for {pod}, which reused {answer.cached_tokens}")
        return differences

    async def _compare_caches(self) -> None:
        """Checks at the end that the index has as many blocks of each pod as its cache has distinct ones."""
        reports = await self._client.pods()
        for name, engine in self._engines.items():
            held, report = len(set(engine.ranks[0].cache.held_hashes())), reports.get(name)
            if (known := report.blocks if report else 0) != held:
                self._differences.append(f"in the end {name} holds {held} blocks and the service knows of {known}")

    def _pod_tallies(self) -> list[PodTally]:
        ranks = {name: engine.ranks[0] for name, engine in self._engines.items()}
        return [
            PodTally(name, rank.requests, rank.queried_tokens, rank.hit_tokens, rank.evictions, rank.cache.held)
            for name, rank in ranks.items()
        ]
