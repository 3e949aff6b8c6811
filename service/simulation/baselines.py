"""Routing that knows no caches, on engines of its own, for comparison on the same requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from random import Random
from typing import TypeAlias

from service.simulation.engine import SimulatedEngine

Choose: TypeAlias = Callable[[], int]


class Rival:
    """A set of engines and a way to choose among them that does not look at the prompt."""

    def __init__(self, name: str, engines: Sequence[SimulatedEngine], choose: Choose) -> None:
        self.name = name
        self.prompt_tokens = 0
        self.reused_tokens = 0
        self._engines = engines
        self._choose = choose

    def serve(self, tokens: Sequence[int], output: Sequence[int]) -> None:
        self.reused_tokens += self._engines[self._choose()].serve(tokens, output).cached_tokens
        self.prompt_tokens += len(tokens)


def rivals(make_engines: Callable[[], Sequence[SimulatedEngine]], seed: int) -> list[Rival]:
    """Round robin and random, each with engines of its own."""
    turns, chance, count = make_engines(), make_engines(), len(make_engines())
    in_turn, at_random = cycle(range(count)), Random(seed)  # noqa: S311 - to be repeatable, not secret
    return [
        Rival("round robin", turns, lambda: next(in_turn)),
        Rival("random", chance, lambda: at_random.randrange(count)),
    ]
