"""Conversations played against simulated pods: each request goes where the service says that most of it is cached.

What the service predicted is held against what the engines did, request by request. The rule: the service counts whole
leading blocks of the prompt, which must equal what each engine's cache holds of them; the engine that serves reuses
the same, but never the prompt's last token (vLLM computes at least one), so at most the whole blocks before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.models.model import Model
from service.simulation.baselines import Rival
from service.simulation.conversations import Conversations, Turn
from service.simulation.pod import Pod
from service.simulation.service_client import Prediction, Router

CACHE_AWARE = "cache-aware"


class PodTally(msgspec.Struct):
    """What a pod did so far."""

    pod: str
    requests: int
    prompt_tokens: int
    reused_tokens: int
    evictions: int
    blocks_held: int


class PolicyTally(msgspec.Struct):
    """How much of all prompts a way of routing has reused so far."""

    policy: str
    prompt_tokens: int
    reused_tokens: int


class Routed(msgspec.Struct, tag="request", tag_field="kind"):
    """One request: what was predicted, where it went, what was really reused. Counts are tokens of the prompt."""

    number: int
    seconds: float
    conversation: int
    turn: int
    prompt_tokens: int
    predicted: dict[str, int]
    held: dict[str, int]
    pod: str
    reused: int
    text: str
    cached_characters: int
    differences: list[str]
    pods: list[PodTally]
    policies: list[PolicyTally]


class Ended(msgspec.Struct, tag="end", tag_field="kind"):
    """How it all came out; `predictions` were compared, each request's for every pod and what the chosen one reused."""

    seconds: float
    requests: int
    predictions: int
    differences: list[str]
    pods: list[PodTally]
    policies: list[PolicyTally]
    last_messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop, and how fast to go; None: no limit. `rate` is in requests per second."""

    requests: int | None
    seconds: float | None
    rate: float | None


class Demonstration:
    """One run."""

    def __init__(
        self, pods: Sequence[Pod], rivals: Sequence[Rival], model: Model, router: Router, block_size: int
    ) -> None:
        self._pods = {pod.name: pod for pod in pods}
        self._rivals = rivals
        self._model = model
        self._router = router
        self._block_size = block_size
        self._predictions = 0
        self._differences: list[str] = []

    async def run(self, conversations: Conversations, limits: Limits) -> AsyncIterator[Routed | Ended]:
        """Gives a line for each request and one for the end. Raises ServiceError, and ValueError for a small cache."""
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
        await self._compare_holdings()
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
        prediction = await self._router.predict(turn.messages)
        pod = self._best(prediction)
        held = {name: one.engine.cached_tokens(tokens) for name, one in self._pods.items()}
        reused = pod.serve(tokens, output).cached_tokens
        for rival in self._rivals:
            rival.serve(tokens, output)
        await self._router.applied(pod.name, pod.last_sequence)
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
        """What the engine makes of the request by itself: its prompt's tokens, and those of the reply."""
        prompt = (await self._model.render(Chat(messages=turn.messages))).tokens
        replied = [*turn.messages, {"role": "assistant", "content": turn.reply}]
        whole = (await self._model.render(Chat(messages=replied, add_generation_prompt=False))).tokens
        # The model ends its turn with a special token; the line end after it is the template's.
        return prompt, whole[len(prompt) : -1]

    def _best(self, prediction: Prediction) -> Pod:
        """The highest score; among equals the pod that served least."""
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

    async def _compare_holdings(self) -> None:
        """In the end the index must hold as many blocks of each pod as its cache has different ones."""
        reports = await self._router.pods()
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
        return [aware, *(PolicyTally(rival.name, rival.prompt_tokens, rival.reused_tokens) for rival in self._rivals)]
