"""Chooses the rank for a request: the one that answers soonest, with what its choice costs the requests behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf
from random import Random
from time import monotonic
from typing import Final

import msgspec

from service.contract.tier_weights import TierWeights
from service.fleet.registry import Learned, Pod, Registry
from service.index.base import Rank, RankMatch, Tier
from service.routing.estimate import Speed, median_speed
from service.routing.reservations import RankWork, Reservation

_TIE: Final = 0.1
"""Estimates that differ less are equal: speeds are not known better."""
_REFRESH_SECONDS: Final = 1.0
_FIRST_MEAN: Final = 1000.0
_MEAN_SHARE: Final = 0.05
_MAX_MODELS: Final = 1000
_random = Random()  # noqa: S311 - nothing is secret here


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A request to be routed. `tokens` is the length of its prompt, None if unknown; `matches` say who holds it.

    `renderer` is the source of the tokens, `parity` the verdict on them.
    """

    model: str | None = None
    tokens: int | None = None
    matches: Sequence[RankMatch] = ()
    renderer: str | None = None
    parity: str | None = None
    is_streamed: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The rank for a request.

    `predicted` is the number of prompt tokens that its engine will reuse, `seconds` the estimated time to first token.
    """

    pod: Pod
    rank: int
    predicted: int
    seconds: float
    reservation: Reservation

    @property
    def names_rank(self) -> bool:
        """Whether the engine has several ranks, so that the request must name one."""
        return self.pod.learned is not None and self.pod.learned.ranks > 1


class Arrivals:
    """The rate of requests, over the last half minute."""

    __slots__ = ("_last", "_rate")
    _SECONDS: Final = 30.0

    def __init__(self) -> None:
        self._rate = 0.0
        self._last = 0.0

    def note(self, now: float) -> float:
        """Counts a request; gives the requests per second before it."""
        rate = self._rate * exp((self._last - now) / self._SECONDS) if self._rate else 0.0
        self._rate = rate + 1 / self._SECONDS
        self._last = now
        return rate


def costs_of(ranks: Iterable[RankWork], uncached: Iterable[float], arrivals: float, now: float) -> list[float]:
    """What each rank costs for a prompt of which it must compute so many tokens, in seconds.

    A rank that is busy for w seconds gets `arrivals * w` further requests meanwhile, each of which waits for this
    prompt's prefill, too. `arrivals` are requests per second and rank. A pod of weight 2 counts as twice as fast.
    """
    costs = []
    for rank, tokens in zip(ranks, uncached, strict=True):
        if rank.prefills or rank.others_tokens:
            wait = rank.wait(now)
            cost = wait + rank.overhead + tokens * rank.seconds_per_token * (1 + arrivals * wait)
        else:
            cost = rank.overhead + tokens * rank.seconds_per_token
        costs.append(cost / rank.weight)
    return costs


def best_of(ranks: Sequence[RankWork], costs: Sequence[float]) -> int:
    """The position of the lowest cost; among nearly equal ones, of the fewest requests in flight, then at random."""
    limit = min(costs) * (1 + _TIE)
    near = [position for position, cost in enumerate(costs) if cost <= limit]
    if len(near) == 1:
        return near[0]
    loads = [ranks[position].requests / ranks[position].weight for position in near]
    fewest = min(loads)
    return _random.choice([position for position, load in zip(near, loads, strict=True) if load == fewest])


class _Candidates:
    """The ranks that serve a model. Valid as long as the fleet does not change."""

    __slots__ = ("_positions", "_registry", "arrivals", "ranks")

    def __init__(self, registry: Registry, ranks: Sequence[RankWork], arrivals: Arrivals) -> None:
        self.ranks = ranks
        self.arrivals = arrivals
        self._registry = registry
        self._positions: dict[Rank, int | None] = {}

    def position(self, rank: Rank) -> int | None:
        """The position of the rank that publishes events under this name; None if it is no candidate."""
        try:
            return self._positions[rank]
        except KeyError:
            name = self._registry.name_of(rank.pod)
            found = (i for i, work in enumerate(self.ranks) if work.pod.name == name and work.number == rank.number)
            position = self._positions[rank] = next(found, None)
            return position


class Router:
    """Chooses ranks of the pods of a registry, and knows the load that they were given."""

    def __init__(
        self, registry: Registry, tier_weights: TierWeights, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._weights = tier_weights
        self._work: dict[Pod, list[RankWork]] = {}
        self._learned: list[Learned | None] = []
        self._candidates: dict[str | None, _Candidates] = {}
        self._refreshed = -inf
        self._mean_tokens = _FIRST_MEAN
        registry.watch(self._changed)

    def choose(
        self, question: Question, tried: Collection[Pod] = (), max_in_flight: int | None = None
    ) -> Choice | None:
        """The rank for a request, with a reservation; None if no pod can take it.

        Skips `tried` pods, and pods with `max_in_flight` requests. A pod that asked to retry later is the last choice.
        """
        now = self._clock()
        candidates = self._candidates_for(question.model)
        if now - self._refreshed >= _REFRESH_SECONDS:
            self._refresh(now)
        ranks = candidates.ranks
        if not ranks:
            return None
        tokens = question.tokens if question.tokens is not None else round(self._mean_tokens)
        held = self._held(question.matches, candidates)
        uncached = [float(tokens)] * len(ranks)
        for position, (weighted, _) in held.items():
            uncached[position] = max(tokens - weighted, 1.0)
        costs = costs_of(ranks, uncached, candidates.arrivals.note(now) / len(ranks), now)
        chosen = best_of(ranks, costs)
        pod = ranks[chosen].pod
        if pod.is_busy or pod in tried or not _can_take(pod, max_in_flight):
            allowed = [
                position
                for position, rank in enumerate(ranks)
                if rank.pod not in tried and _can_take(rank.pod, max_in_flight)
            ]
            allowed = [position for position in allowed if not ranks[position].pod.is_busy] or allowed
            if not allowed:
                return None
            best = best_of([ranks[position] for position in allowed], [costs[position] for position in allowed])
            chosen = allowed[best]
        rank = ranks[chosen]
        computed = round(uncached[chosen])
        self._mean_tokens += (computed - self._mean_tokens) * _MEAN_SHARE
        seconds = rank.wait(now) + rank.overhead + computed * rank.seconds_per_token
        reservation = rank.reserve(computed, tokens, now, tells_first_token=question.is_streamed)
        return Choice(rank.pod, rank.number, _predicted(tokens, held.get(chosen)), seconds, reservation)

    def _held(self, matches: Iterable[RankMatch], candidates: _Candidates) -> dict[int, tuple[float, RankMatch]]:
        """The matches by the position of their rank, with their tokens weighted by tier."""
        held: dict[int, tuple[float, RankMatch]] = {}
        last: Mapping[Tier, int] | None = None
        weighted = 0.0
        for match in matches:
            if match.tokens_by_tier is not last:  # ranks that hold as much share it
                last = match.tokens_by_tier
                weighted = sum(self._weights[tier] * tokens for tier, tokens in last.items())
            position = candidates.position(match.rank)
            if position is not None:
                held[position] = weighted, match
        return held

    def _candidates_for(self, model: str | None) -> _Candidates:
        learned = [pod.learned for pod in self._registry]
        if learned != self._learned or len(self._candidates) > _MAX_MODELS:
            self._candidates.clear()
        self._learned = learned
        found = self._candidates.get(model)
        if found is None:
            ranks = [rank for pod in self._serving(model) for rank in self._ranks_of(pod)]
            shared = (other.arrivals for other in self._candidates.values() if other.ranks == ranks)
            arrivals = next(shared, None) or Arrivals()
            found = self._candidates[model] = _Candidates(self._registry, ranks, arrivals)
        return found

    def _serving(self, model: str | None) -> list[Pod]:
        """The pods that list a model or LoRA; if there are none, those whose models are unknown."""
        pods = [pod for pod in self._registry if pod.serves(model)]
        return [pod for pod in pods if pod.models] or pods

    def _ranks_of(self, pod: Pod) -> list[RankWork]:
        ranks = self._work[pod]
        count = pod.learned.ranks if pod.learned is not None else 1
        while len(ranks) < count:
            ranks.append(RankWork(pod, len(ranks), self._median()))
        return ranks[:count]

    def _changed(self, pod: Pod, is_there: bool) -> None:
        self._candidates.clear()
        if is_there:
            self._work[pod] = []
        else:
            self._work.pop(pod, None)

    def _median(self) -> Speed:
        known = [rank for ranks in self._work.values() for rank in ranks if rank.is_known]
        return median_speed([Speed(rank.overhead, rank.seconds_per_token) for rank in known])

    def _refresh(self, now: float) -> None:
        """Reads what changes slowly: the engines' own queues, weights, and speeds that expired."""
        self._refreshed = now
        ranks = [rank for ranks in self._work.values() for rank in ranks]
        for rank in ranks:
            if rank.samples.expire(now):
                rank.learn_speed()
            load = rank.pod.load.get(rank.number)
            waiting = load.waiting - len(rank.prefills) if load is not None else 0.0
            rank.others_tokens = waiting * self._mean_tokens if waiting > 0 else 0.0
            rank.weight = rank.pod.weight
        if not all(rank.is_known for rank in ranks):
            median = self._median()
            for rank in ranks:
                if not rank.is_known:
                    rank.set_speed(median, is_known=False)


def _can_take(pod: Pod, max_in_flight: int | None) -> bool:
    return pod.is_available and (max_in_flight is None or pod.in_flight < max_in_flight)


def _predicted(tokens: int, held: tuple[float, RankMatch] | None) -> int:
    """The tokens that an engine will reuse: never the last one of a prompt."""
    if held is None:
        return 0
    _, match = held
    return min(match.tokens, (tokens - 1) // match.block_size * match.block_size)
