"""The scheduler of one data-parallel rank of a simulated engine: queue, prefill, decoding and cache events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from service.simulation.engine import SimulatedEngine
from service.simulation.publisher import Publisher, batch_payload


class PromptTooLong(Exception):
    """The prompt does not fit into the engine's cache."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Prompt tokens computed per second (None: instantly), seconds per generated token, and concurrent requests."""

    prefill_rate: float | None = None
    decode_seconds: float = 0.0
    max_running: int = 256


class Running(NamedTuple):
    """A request after its prefill: the number of cached prompt tokens, and the output tokens as they are generated."""

    cached_tokens: int
    tokens: AsyncIterator[int]


class Scheduler:
    """Runs up to `max_running` requests, first come first served; one prefill at a time, as they share the compute.

    The blocks of the prompt are stored after its prefill, those of the output when the request ends. Blocks of running
    requests can be evicted, unlike in vLLM.
    """

    def __init__(self, rank: int, cache: SimulatedEngine, publisher: Publisher, speed: Speed) -> None:
        self.cache = cache
        self.publisher = publisher
        self.waiting = self.running = 0
        self.requests = self.queried_tokens = self.hit_tokens = self.evictions = 0
        """Totals: prefills, their prompt tokens, the reused ones of these, and evicted blocks."""
        self._rank = rank
        self._speed = speed
        self._slots = asyncio.Semaphore(speed.max_running)
        self._compute = asyncio.Lock()

    @property
    def max_tokens(self) -> int:
        """Prompt and output tokens of the longest request."""
        return (self.cache.blocks - 1) * self.cache.block_size

    def check(self, prompt: Sequence[int]) -> None:
        """Raises PromptTooLong."""
        if len(prompt) >= self.max_tokens:
            raise PromptTooLong(f"the prompt has {len(prompt)} tokens, the engine takes {self.max_tokens - 1}")

    @asynccontextmanager
    async def run(self, prompt: Sequence[int], output: Sequence[int], salt: str | None) -> AsyncIterator[Running]:
        """Runs a request until the context ends, which aborts an unfinished one. Raises PromptTooLong."""
        self.check(prompt)
        output = output[: self.max_tokens - len(prompt)]
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        generated = 0

        async def tokens() -> AsyncIterator[int]:
            nonlocal generated
            for token in output:
                if generated:
                    await asyncio.sleep(self._speed.decode_seconds)
                generated += 1
                yield token

        try:
            yield Running(await self._prefill(prompt, salt), tokens())
        finally:
            if generated > 1:  # the last generated token is never computed
                self._store([*prompt, *output[: generated - 1]], salt)
            self.running -= 1
            self._slots.release()

    async def _prefill(self, prompt: Sequence[int], salt: str | None) -> int:
        async with self._compute:
            block_size = self.cache.block_size
            reusable = (len(prompt) - 1) // block_size * block_size
            cached = min(self.cache.cached_tokens(prompt, salt), reusable)
            if self._speed.prefill_rate is not None:
                await asyncio.sleep((len(prompt) - cached) / self._speed.prefill_rate)
            reused = self._store(prompt, salt)
        self.requests += 1
        self.queried_tokens += len(prompt)
        self.hit_tokens += reused
        return reused

    def _store(self, tokens: Sequence[int], salt: str | None) -> int:
        served = self.cache.serve(tokens, salt=salt)
        self.evictions += served.evicted
        for events in served.batches:
            self.publisher.publish(batch_payload(events, self._rank))
        return served.cached_tokens

    def clear(self) -> None:
        """Empties the prefix cache and publishes the event."""
        self.publisher.publish(batch_payload(self.cache.clear(), self._rank))
