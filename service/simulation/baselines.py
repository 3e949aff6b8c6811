"""Baselines for comparison: cache-blind routing of the same requests to separate engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from random import Random
from typing import TypeAlias

from service.simulation.engine import SimulatedEngine

Choose: TypeAlias = Callable[[], int]


class Baseline:
    """A set of engines with a policy that ignores the prompt."""

    def __init__(self, name: str, engines: Sequence[SimulatedEngine], choose: Choose) -> None:
        self.name = name
        self.prompt_tokens = 0
        self.reused_tokens = 0
        self._engines = engines
        self._choose = choose

    def serve(self, tokens: Sequence[int], output: Sequence[int]) -> None:
        self.reused_tokens += self._engines[self._choose()].serve(tokens, output).cached_tokens
        self.prompt_tokens += len(tokens)


def baselines(make_engines: Callable[[], Sequence[SimulatedEngine]], seed: int) -> list[Baseline]:
    """Round robin and random, each with its own engines."""
    rotated, drawn, count = make_engines(), make_engines(), len(make_engines())
    rotation, random = cycle(range(count)), Random(seed)  # noqa: S311 - to be repeatable, not secret
    return [
        Baseline("round robin", rotated, lambda: next(rotation)),
        Baseline("random", drawn, lambda: random.randrange(count)),
    ]
