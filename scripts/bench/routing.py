"""What routing costs: CPU time of choice and bookkeeping of one request, by the number of pods.

  python -m scripts.bench.routing [PODS …]

Prompts have 8,192 tokens; every pod holds 512 of each, one holds 7,168, and a third of them compute others. The lookup
in the index is shown beside it.
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from random import Random
from statistics import quantiles
from time import perf_counter, thread_time
from typing import Final, NamedTuple

from service.contract.pods import PodEntry
from service.contract.tier_weights import TierWeights
from service.fleet.registry import Learned, Registry, ServedModel
from service.index.base import Prompt, Rank, Stored
from service.index.memory import MemoryIndex
from service.routing.choice import Choice, Router
from service.routing.placements import Placements
from service.routing.question import Question

_MODEL: Final = "m"
_TOKENS: Final = 8192
_SHARED: Final = 512
_HELD: Final = 7168
_BLOCK: Final = 16
_PROMPTS: Final = 500
_REQUESTS: Final = 1000


class Spent(NamedTuple):
    """CPU seconds of one request: of the lookup, then of the choice, the first token and the end."""

    lookup: float
    routing: float


def fleet(pods: int) -> Registry:
    registry = Registry()
    for number in range(pods):
        pod = registry.add(PodEntry(f"http://h{number}:8000", f"h{number}:8000"))
        pod.learned = Learned((ServedModel(_MODEL),), event_names=frozenset((f"10.0.0.{number}:8000",)))
    return registry


def costs(pods: int, requests: int = _REQUESTS, prompts: int = _PROMPTS) -> list[Spent]:
    """What each request costs; every `prompts` requests, the prompts are new to the router."""
    random = Random(1)
    registry = fleet(pods)
    router, index = Router(registry, TierWeights()), MemoryIndex(sys.maxsize)
    ranks = [Rank(pod.name, _MODEL) for pod in registry]
    shared = array("I", random.choices(range(50_000), k=_SHARED))
    for rank in ranks:
        index.store(rank, Stored(list(range(1, _SHARED // _BLOCK + 1)), None, shared, _BLOCK))
    asked = []
    for number in range(1, prompts + 1):
        prompt = Prompt(_MODEL, shared + array("I", random.choices(range(50_000), k=_TOKENS - _SHARED)))
        hashes = list(range(number << 20, (number << 20) + (_HELD - _SHARED) // _BLOCK))
        stored = Stored(hashes, _SHARED // _BLOCK, prompt.tokens[_SHARED:_HELD], _BLOCK)
        index.store(random.choice(ranks), stored)
        asked.append(prompt)
    computing: deque[Choice] = deque()
    decoding: deque[Choice] = deque()
    found = []
    for number in range(requests):
        if number % prompts == 0:
            router.placements = Placements()  # every prompt is a new one
        prompt = asked[number % prompts]
        first = computing.popleft() if len(computing) > pods // 3 else None
        last = decoding.popleft() if len(decoding) > 8 * pods else None
        began = thread_time()
        matches = index.match_together(prompt)
        looked_up = thread_time()
        choice = router.choose(Question(model=_MODEL, tokens=_TOKENS, prompt=prompt, matches=matches, is_streamed=True))
        if first is not None:
            first.reservation.first_token(perf_counter())
        if last is not None:
            last.reservation.end(perf_counter())
        found.append(Spent(looked_up - began, thread_time() - looked_up))
        if choice is None:
            raise RuntimeError("no pod was chosen")
        if first is not None:
            router.heard(Rank(first.pod.name, _MODEL))  # of the blocks that it computed
        computing.append(choice)
        if first is not None:
            decoding.append(first)
    return found


def main() -> None:
    for pods in [int(given) for given in sys.argv[1:]] or (8, 50, 500, 1_000, 10_000):
        spent = costs(pods)
        shown = []
        for name, found in (("lookup", [one.lookup for one in spent]), ("routing", [one.routing for one in spent])):
            hundredths = quantiles(found, n=100)
            shown.append(f"{name} p50 {hundredths[49] * 1e6:7.1f} µs  p99 {hundredths[98] * 1e6:7.1f} µs")
        print(f"{pods:6,} pods:", *shown, sep="  ")


if __name__ == "__main__":
    main()
