"""What routing costs: CPU time of choice and bookkeeping of one request, by the number of pods.

  python -m scripts.bench.routing

Prompts have 8,192 tokens; every pod holds some of each, and a third of them compute others. The lookup in the index is
left out.
"""

from __future__ import annotations

from array import array
from collections import deque
from random import Random
from statistics import quantiles
from time import perf_counter, thread_time
from typing import Final

from service.contract.pods import PodEntry
from service.contract.tier_weights import TierWeights
from service.fleet.registry import Learned, Registry, ServedModel
from service.index.base import Prompt, Rank, RankMatch, Tier
from service.routing.choice import Choice, Router
from service.routing.placements import Placements
from service.routing.question import Question

_MODEL: Final = "m"
_TOKENS: Final = 8192
_PROMPTS: Final = 500
_REQUESTS: Final = 1000


def fleet(pods: int) -> Registry:
    registry = Registry()
    for number in range(pods):
        pod = registry.add(PodEntry(f"http://h{number}:8000", f"h{number}:8000"))
        pod.learned = Learned((ServedModel(_MODEL),), event_names=frozenset((f"10.0.0.{number}:8000",)))
    return registry


def costs(pods: int, requests: int = _REQUESTS) -> list[float]:
    """CPU seconds of routing of each request: the choice, the first token and the end."""
    random = Random(1)
    registry = fleet(pods)
    router = Router(registry, TierWeights())
    prefix = {Tier.GPU: 512}  # of a system prompt that all pods hold, as the index answers it
    shared = [RankMatch(Rank(pod.name, _MODEL), 16, prefix) for pod in registry]
    computing: deque[Choice] = deque()
    decoding: deque[Choice] = deque()
    found = []
    prompts = [Prompt(_MODEL, array("I", random.choices(range(50_000), k=_TOKENS))) for _ in range(_PROMPTS)]
    for number in range(requests):
        if number % _PROMPTS == 0:
            router.placements = Placements()  # every prompt is a new one
        longest = random.randrange(pods)
        matches = [*shared[:longest], RankMatch(shared[longest].rank, 16, {Tier.GPU: 7000}), *shared[longest + 1 :]]
        prompt = prompts[number % _PROMPTS]
        question = Question(model=_MODEL, tokens=_TOKENS, prompt=prompt, matches=matches, is_streamed=True)
        first = computing.popleft() if len(computing) > pods // 3 else None
        last = decoding.popleft() if len(decoding) > 8 * pods else None
        started = thread_time()
        choice = router.choose(question)
        if first is not None:
            first.reservation.first_token(perf_counter())
        if last is not None:
            last.reservation.end(perf_counter())
        found.append(thread_time() - started)
        if choice is None:
            raise RuntimeError("no pod was chosen")
        computing.append(choice)
        if first is not None:
            decoding.append(first)
    return found


def main() -> None:
    for pods in (8, 50, 500):
        found = sorted(costs(pods))
        hundredths = quantiles(found, n=100)
        print(f"{pods:4d} pods: p50 {hundredths[49] * 1e6:6.1f} µs  p99 {hundredths[98] * 1e6:6.1f} µs")


if __name__ == "__main__":
    main()
