"""Routing policies for comparison: the same chats, each policy with engines of its own."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from itertools import cycle, repeat
from random import Random

from service.contract.demo_lines import CACHE_AWARE, PolicyTally
from service.simulation.chat_client import ChatAnswer, ChatClient


class Policy:
    """Sends each chat to the next of `urls`: engines, or a gateway that chooses the engine."""

    def __init__(self, name: str, urls: Iterator[str], client: ChatClient) -> None:
        self._name = name
        self._urls = urls
        self._client = client
        self._prompt_tokens = 0
        self._reused_tokens = 0
        self._first_tokens: list[float] = []

    async def ask(self, messages: Sequence[dict[str, str]]) -> ChatAnswer:
        """Raises ServiceError."""
        answer = await self._client.ask(next(self._urls), messages)
        self._prompt_tokens += answer.prompt_tokens
        self._reused_tokens += answer.cached_tokens
        insort(self._first_tokens, answer.first_token)
        return answer

    def tally(self) -> PolicyTally:
        times = self._first_tokens
        mean = sum(times) / len(times) if times else 0.0
        p50, p99 = (times[len(times) * percent // 100] if times else 0.0 for percent in (50, 99))
        return PolicyTally(
            self._name, self._prompt_tokens, self._reused_tokens, *(round(t, 6) for t in (mean, p50, p99))
        )


def cache_aware(gateway: str, client: ChatClient) -> Policy:
    return Policy(CACHE_AWARE, repeat(gateway), client)


def round_robin(engines: Sequence[str], client: ChatClient) -> Policy:
    return Policy("round robin", cycle(engines), client)


def at_random(engines: Sequence[str], client: ChatClient, seed: int) -> Policy:
    random = Random(seed)  # noqa: S311 - to be repeatable, not secret
    return Policy("random", iter(lambda: random.choice(engines), None), client)
