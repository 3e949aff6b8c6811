"""A fleet without engines, a clock that tests move, and a router over both."""

from __future__ import annotations

from array import array
from random import Random

from service.contract.pods import parse_pods
from service.contract.tier_weights import TierWeights
from service.fleet.registry import Learned, Pod, Registry, ServedModel
from service.index.base import Matches, Prompt, Rank, RankMatch, Tier
from service.routing.choice import Choice, Router
from service.routing.question import Question

MODEL = "m"


class Fleet:
    """Pods of one rank each, or of `ranks`."""

    def __init__(self, count: int = 2, ranks: int = 1) -> None:
        self.now = 1000.0
        self.registry = Registry()
        self.pods = [self.add(number, ranks) for number in range(count)]
        self.router = Router(self.registry, TierWeights(), clock=lambda: self.now)

    def add(self, number: int, ranks: int = 1, *models: str) -> Pod:
        (entry,) = parse_pods(f"http://h:{8000 + number}")
        pod = self.registry.add(entry)
        pod.learned = Learned(tuple(ServedModel(model) for model in models or (MODEL,)), ranks=ranks)
        return pod

    def choose(self, tokens: int = 1000, *matches: RankMatch, tried: tuple[Pod, ...] = ()) -> Choice:
        """The choice for a streamed prompt of so many tokens."""
        question = Question(model=MODEL, tokens=tokens, matches=Matches(alone=matches), is_streamed=True)
        choice = self.router.choose(question, tried)
        assert choice is not None
        return choice

    def ask(self, tokens: array[int], *matches: RankMatch, tried: tuple[Pod, ...] = ()) -> Choice:
        """The choice for a streamed prompt of known tokens."""
        prompt = Prompt(MODEL, tokens)
        question = Question(
            model=MODEL, tokens=len(tokens), prompt=prompt, matches=Matches(alone=matches), is_streamed=True
        )
        choice = self.router.choose(question, tried)
        assert choice is not None
        return choice

    def serve(self, pod: Pod, tokens: int, seconds: float) -> None:
        """Lets a pod answer one prompt, its first token after so many seconds."""
        others = tuple(other for other in self.registry if other is not pod)
        choice = self.choose(tokens, tried=others)
        self.now += seconds
        choice.reservation.first_token(self.now)
        choice.reservation.end(self.now)


def held(pod: Pod, tokens: int, rank: int = 0, tier: Tier = Tier.GPU) -> RankMatch:
    return RankMatch(Rank(pod.name, MODEL, rank), 16, {tier: tokens})


def text(seed: int, tokens: int = 1024) -> array[int]:
    """Token ids that no other seed begins with."""
    return array("I", Random(seed).choices(range(50_000), k=tokens))
