"""Conversations against simulated pods: each request goes to the pod with the best score.

Each prediction is compared with the engines. The service predicts the leading whole blocks in each engine's cache; the
engine that serves the request reuses the same blocks, except one that ends at the prompt's last token, which vLLM
always computes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from service.contract.demo_lines import Ended, PodTally, PolicyTally, Routed
from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.models.model import Model
from service.simulation.baselines import Baseline
from service.simulation.conversations import Conversations, Turn
from service.simulation.pod import Pod
from service.simulation.service_client import Prediction, ServiceClient

CACHE_AWARE = "cache-aware"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a run; None is no limit. `rate` is in requests per second."""

    requests: int | None
    seconds: float | None
    rate: float | None


class Demonstration:
    """One run."""

    def __init__(
        self, pods: Sequence[Pod], baselines: Sequence[Baseline], model: Model, client: ServiceClient, block_size: int
    ) -> None:
        self._pods = {pod.name: pod for pod in pods}
        self._baselines = baselines
        self._model = model
        self._client = client
        self._block_size = block_size
        self._predictions = 0
        self._differences: list[str] = []

    async def run(self, conversations: Conversations, limits: Limits) -> AsyncIterator[Routed | Ended]:
        """Yields a line per request, then the totals. Raises ServiceError, and ValueError if a cache is too small."""
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
            yield await self._route(number, time.monotonic() - begun, turn)
        await self._compare_caches()
        yield Ended(
            time.monotonic() - begun,
            number,
            self._predictions,
            self._differences,
            self._pod_tallies(),
            self._policy_tallies(),
            messages,
        )

    async def _route(self, number: int, seconds: float, turn: Turn) -> Routed:
        tokens, output = await self._tokens(turn)
        prediction = await self._client.predict(turn.messages)
        pod = self._best(prediction)
        held = {name: one.engine.cached_tokens(tokens) for name, one in self._pods.items()}
        reused = pod.serve(tokens, output).cached_tokens
        for baseline in self._baselines:
            baseline.serve(tokens, output)
        await self._client.applied(pod.name, pod.last_sequence)
        differences = [f"request {number}: {said}" for said in self._compare(prediction, tokens, held, pod, reused)]
        self._differences += differences
        return Routed(
            number=number,
            seconds=round(seconds, 3),
            conversation=turn.conversation,
            turn=turn.number,
            prompt_tokens=len(tokens),
            predicted={name: prediction.matched_tokens.get(name, 0) for name in self._pods},
            held=held,
            pod=pod.name,
            reused=reused,
            text=prediction.text,
            cached_characters=prediction.matched_characters.get(pod.name, 0),
            differences=differences,
            pods=self._pod_tallies(),
            policies=self._policy_tallies(),
        )

    async def _tokens(self, turn: Turn) -> tuple[TokenIds, TokenIds]:
        """The tokens of the prompt and of the reply, computed as in an engine."""
        prompt = (await self._model.render(Chat(messages=turn.messages))).tokens
        replied = [*turn.messages, {"role": "assistant", "content": turn.reply}]
        whole = (await self._model.render(Chat(messages=replied, add_generation_prompt=False))).tokens
        # The model generates the special token that ends its turn; the template adds the line break after it.
        return prompt, whole[len(prompt) : -1]

    def _best(self, prediction: Prediction) -> Pod:
        """The pod with the highest score; on a tie, the one with the fewest requests."""
        return max(self._pods.values(), key=lambda pod: (prediction.scores.get(pod.name, 0), -pod.requests))

    def _compare(
        self, prediction: Prediction, tokens: TokenIds, held: dict[str, int], pod: Pod, reused: int
    ) -> list[str]:
        differences = []
        if prediction.prompt_tokens != len(tokens):
            differences.append(f"the service counts {prediction.prompt_tokens} tokens, the engine {len(tokens)}")
        for name, count in held.items():
            self._predictions += 1
            if (predicted := prediction.matched_tokens.get(name, 0)) != count:
                differences.append(f"predicted {predicted} tokens for {name}, whose cache holds {count}")
        self._predictions += 1
        before_last = (len(tokens) - 1) // self._block_size * self._block_size
        if (expected := min(prediction.matched_tokens.get(pod.name, 0), before_last)) != reused:
            differences.append(f"{pod.name} should have reused {expected} tokens and reused {reused}")
        return differences

    async def _compare_caches(self) -> None:
        """Checks at the end that the index has as many blocks of each pod as its cache has distinct ones."""
        reports = await self._client.pods()
        for name, pod in self._pods.items():
            held, report = len(set(pod.engine.held_hashes())), reports.get(name)
            if (known := report.blocks if report else 0) != held:
                self._differences.append(f"in the end {name} holds {held} blocks and the service knows of {known}")

    def _pod_tallies(self) -> list[PodTally]:
        return [
            PodTally(name, pod.requests, pod.prompt_tokens, pod.reused_tokens, pod.evictions, pod.engine.held)
            for name, pod in self._pods.items()
        ]

    def _policy_tallies(self) -> list[PolicyTally]:
        pods = self._pods.values()
        aware = PolicyTally(CACHE_AWARE, sum(pod.prompt_tokens for pod in pods), sum(pod.reused_tokens for pod in pods))
        return [aware, *(PolicyTally(one.name, one.prompt_tokens, one.reused_tokens) for one in self._baselines)]
