"""Chooses the rank for a request: the one that answers soonest, with what its choice costs the requests behind it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from math import inf
from time import monotonic
from typing import Final, NamedTuple

import msgspec

from service.contract.tier_weights import TierWeights
from service.fleet.registry import Learned, Pod, Registry
from service.index.base import BlockKey, Prompt, Rank, RankMatch, Tier
from service.native.backend import RankCosts
from service.routing.affinity import Affinity, session_key
from service.routing.candidates import Candidates, Held
from service.routing.cost import Demand, best_of, weigh
from service.routing.estimate import Speed, median_speed
from service.routing.issued import IssuedReservations
from service.routing.placements import BLOCK, EVENT_SECONDS, UNIT, Placements
from service.routing.question import Question
from service.routing.reservations import RankWork, ReplicaNotifier, Reservation

_AFFINITY: Final = 1.25
"""How much the last rank of a session may cost, compared with the best one."""
_REFRESH_SECONDS: Final = 1.0
_COMPARE_SECONDS: Final = 0.05
_FIRST_MEAN: Final = 1000.0
_MEAN_SHARE: Final = 0.05
_MAX_MODELS: Final = 1000
_NO_TOKENS: Final = array("I")


class Basis(StrEnum):
    """The basis of a prediction."""

    EVENTS = "events"
    """The rank's events, and it has no other request from here: nothing changes its blocks before this prompt."""
    IN_FLIGHT = "events, others in flight"
    """The rank's events, but other requests may change its blocks first, or have, and the events are on their way."""
    INEXACT = "events, inexact"
    """The events of a rank that is inexact: its engine may hold more or less, for example after a restart."""
    PLACEMENT = "placement"
    """An earlier request with the same prefix, of which events have not told yet."""


class Choice(msgspec.Struct, frozen=True):
    """The rank for a request.

    `predicted` is the number of prompt tokens that its engine will reuse, `seconds` the estimated time to first token.
    """

    pod: Pod
    rank: int
    predicted: int
    basis: Basis
    block_size: int
    seconds: float
    reservation: Reservation

    @property
    def names_rank(self) -> bool:
        """Whether the engine has several ranks, so that the request must name one."""
        return self.pod.learned is not None and self.pod.learned.ranks > 1


class Estimate(NamedTuple):
    """The cost of a request on one rank. `seconds` is the time to first token, `predicted` counts reused tokens."""

    pod: Pod
    rank: int
    seconds: float
    cost: float
    uncached: int
    predicted: int
    requests: int
    """Requests in flight."""


class Given(NamedTuple):
    """A request that another replica gave to a rank."""

    pod: str
    rank: int
    uncached: int
    tokens: int
    keys: Sequence[BlockKey] = ()
    """Those of its placement; none if it is an older one."""
    session: int | None = None


class _Weighed(NamedTuple):
    """The candidates for a request, by position, and what it costs on each."""

    ranks: list[RankWork]
    demand: Demand
    tokens: int
    keys: Sequence[BlockKey]
    held: Held
    session: int | None
    """The key of the session."""
    preferred: int | None
    """The position of the session's last rank."""

    @property
    def costs(self) -> RankCosts[RankWork]:
        return self.held.costs


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
        self._candidates: dict[str | None, Candidates] = {}
        self._work_of: dict[Rank, RankWork | None] = {}
        """By the names in events."""
        self._refreshed = -inf
        self._compared = -inf
        self._names: dict[str, str] | None = None
        """Of pods, by those in events."""
        self.placements = Placements()
        self.affinity = Affinity()
        self.issued = IssuedReservations(clock)
        self._mean_tokens = _FIRST_MEAN
        self.freed: Callable[[], None] = lambda: None
        """Called when a request ends."""
        self.notifier: ReplicaNotifier | None = None
        """Is told of each choice."""
        self.is_exact: Callable[[Rank], bool] = lambda rank: True
        """Whether the answers about a rank, by its name in events, are known to equal its engine's."""
        registry.watch(self._changed)

    def choose(
        self, question: Question, tried: Collection[Pod] = (), max_in_flight: int | None = None
    ) -> Choice | None:
        """The rank for a request, with a reservation; None if no pod can take it.

        Skips `tried` pods, and pods with `max_in_flight` requests. A pod that asked to retry later is the last choice.
        """
        now = self._clock()
        weighed = self._weigh(question, now)
        if weighed is None:
            return None
        weighed.demand.count(now)
        chosen = self._best(weighed, tried, max_in_flight)
        return self._reserve(question, weighed, chosen, now) if chosen is not None else None

    def _best(self, weighed: _Weighed, tried: Collection[Pod], max_in_flight: int | None) -> int | None:
        """The position of the rank to take."""
        ranks, costs = weighed.ranks, weighed.costs
        chosen = best_of(costs)
        if chosen is None:
            return None
        if weighed.preferred is not None and costs.cost(weighed.preferred) <= costs.cost(chosen) * _AFFINITY:
            chosen = weighed.preferred
        pod = ranks[chosen].pod
        if not pod.is_busy and pod not in tried and _can_take(pod, max_in_flight):
            return chosen
        unable = [
            position
            for position, rank in enumerate(ranks)
            if rank.pod in tried or not _can_take(rank.pod, max_in_flight)
        ]
        costs.rule_out(unable)
        busy = [position for position, rank in enumerate(ranks) if rank.pod.is_busy]
        if len({*unable, *busy}) < len(ranks):
            costs.rule_out(busy)
        return best_of(costs)

    def given_elsewhere(self, given: Given) -> Reservation | None:
        """Counts a request that another replica gave to a rank; None if that is not known here.

        It is ended by whoever hears of its end. Nothing is learned from its times, which were not measured here.
        """
        pod = self._registry.get(given.pod)
        ranks = self._ranks_of(pod) if pod is not None else []
        if given.rank >= len(ranks):
            return None
        now, rank = self._clock(), ranks[given.rank]
        reservation = rank.reserve(given.uncached, given.tokens, now, tells_first_token=False)
        if given.keys:
            reservation.placement = self.placements.place(_NO_TOKENS, given.keys, rank, now)
        if given.session is not None:
            self.affinity.note(given.session, rank)
        for demand in {id(one.demand): one.demand for one in self._candidates.values() if rank in one.numbers}.values():
            demand.count(now)
            demand.chosen(given.tokens, given.uncached)
        return reservation

    def heard(self, rank: Rank) -> None:
        """Notes that events of a rank were applied to the index."""
        if not self._work:  # there are no pods
            return
        if rank not in self._work_of:
            pod = self._registry.get(self._pod_names().get(rank.pod, ""))
            ranks = self._work[pod] if pod is not None else []
            self._work_of[rank] = ranks[rank.number] if rank.number < len(ranks) else None
        work = self._work_of[rank]
        if work is not None:
            work.heard_at = self._clock()

    def withdraw(self, choice: Choice) -> None:
        """Ends a choice that was only a question."""
        choice.reservation.end(self._clock())

    def placed(self, prompt: Prompt, matches: Iterable[RankMatch]) -> list[RankMatch]:
        """Matches that ranks will have because requests were sent there, where they exceed those of the index."""
        held = self.placements.held(prompt, self.placements.keys(prompt), self._clock())
        if not held:
            return []
        known = {match.rank: match for match in matches}
        more = []
        for work, (tokens, _) in held.items():
            names = work.pod.event_names
            if prompt.pods is not None and not any(name in prompt.pods for name in names):
                continue
            ranks = [Rank(name, prompt.model, work.number) for name in names]
            match = next((known[rank] for rank in ranks if rank in known), RankMatch(ranks[0], BLOCK, {}))
            if (whole := tokens - tokens % match.block_size) > match.tokens:
                more.append(RankMatch(match.rank, match.block_size, {Tier.GPU: whole}))
        return more

    def estimates(self, question: Question) -> list[Estimate]:
        """All ranks that serve the model of a request, whether they can take it or not, the cheapest first."""
        return self.foreseen(question)[1]

    def foreseen(self, question: Question) -> tuple[Estimate | None, list[Estimate]]:
        """The rank that `choose` would take, None if no pod can take the request; and all `estimates`.

        Reserves nothing, and leaves no trace.
        """
        now = self._clock()
        weighed = self._weigh(question, now)
        if weighed is None:
            return None, []
        best = self._best(weighed, (), None)
        costs = weighed.costs
        estimates = [
            Estimate(
                rank.pod,
                rank.number,
                rank.wait(now) + rank.overhead + costs.uncached(position) * rank.seconds_per_token,
                costs.cost(position),
                round(costs.uncached(position)),
                _predicted(weighed.tokens, weighed.held.of(position)),
                rank.requests,
            )
            for position, rank in enumerate(weighed.ranks)
        ]
        chosen = estimates[best] if best is not None else None
        return chosen, sorted(estimates, key=lambda estimate: estimate.cost)

    def _weigh(self, question: Question, now: float) -> _Weighed | None:
        """The costs of a request on each candidate; None without candidates."""
        candidates = self._candidates_for(question.model, now)
        if now - self._refreshed >= _REFRESH_SECONDS:
            self._refresh(now)
        ranks, demand = candidates.ranks, candidates.demand
        if not ranks:
            return None
        tokens = question.tokens if question.tokens is not None else round(self._mean_tokens)
        keys = self.placements.keys(question.prompt) if question.prompt is not None else ()
        held = self._held(question, tokens, keys, candidates, now)
        session = session_key(question.session) if question.session is not None else None
        last = self.affinity.last(session) if session is not None else None
        preferred = candidates.numbers.get(last) if last is not None else None
        if preferred is not None and question.tokens is None:
            held.costs.set_uncached(preferred, 1.0)  # the best guess: it holds all of the session
        weigh(held.costs, demand.arrivals(now) / len(ranks), demand.reused, now)
        return _Weighed(ranks, demand, tokens, keys, held, session, preferred)

    def _reserve(self, question: Question, weighed: _Weighed, chosen: int, now: float) -> Choice:
        rank, computed, tokens = weighed.ranks[chosen], round(weighed.costs.uncached(chosen)), weighed.tokens
        seconds = rank.wait(now) + rank.overhead + computed * rank.seconds_per_token
        if question.tokens:
            self._mean_tokens += (computed - self._mean_tokens) * _MEAN_SHARE
            weighed.demand.chosen(tokens, computed)
        held = weighed.held.of(chosen)
        basis = self._basis(rank, held, question, now)
        reservation = rank.reserve(computed, tokens, now, tells_first_token=question.is_streamed)
        if weighed.keys and question.prompt is not None:
            reservation.placement = self.placements.place(question.prompt.tokens, weighed.keys, rank, now)
        if weighed.session is not None:
            self.affinity.note(weighed.session, rank)
        if self.notifier is not None:
            self.notifier.given(reservation, weighed.keys, weighed.session)
        block_size = held.block_size if isinstance(held, RankMatch) else UNIT
        predicted = _predicted(tokens, held)
        return Choice(rank.pod, rank.number, predicted, basis, block_size, seconds, reservation)

    def _basis(self, rank: RankWork, held: RankMatch | int | None, question: Question, now: float) -> Basis:
        """The basis of a choice's prediction."""
        if isinstance(held, int):
            return Basis.PLACEMENT
        if isinstance(held, RankMatch):
            is_exact = self.is_exact(held.rank)
        else:
            model = question.prompt.model if question.prompt is not None else ""
            is_exact = any(self.is_exact(Rank(name, model, rank.number)) for name in rank.pod.event_names)
        if not is_exact:
            return Basis.INEXACT
        return Basis.IN_FLIGHT if rank.requests or now - rank.ended_at < EVENT_SECONDS else Basis.EVENTS

    def _held(
        self, question: Question, tokens: int, keys: Sequence[BlockKey], candidates: Candidates, now: float
    ) -> Held:
        """The tokens that each candidate reuses, and with the costs those that it must compute."""
        held = Held(RankCosts(candidates.ranks, float(tokens)), question.matches)
        costs = held.costs
        for match in question.matches.alone:
            if (position := candidates.find(match.rank)) is not None:
                costs.set_uncached(position, self._left(tokens, match.tokens_by_tier))
                held.alone[position] = match
        if question.matches.runs:
            positions = candidates.positions(question.matches.ranks)
            for run in question.matches.runs:
                costs.hold(run.groups, positions, self._left(tokens, run.tokens_by_tier))
        placed = self.placements.held(question.prompt, keys, now) if question.prompt is not None else {}
        for rank, (reached, placement) in placed.items():
            number = candidates.numbers.get(rank)
            if number is None:
                continue
            uncached = costs.uncached(number)
            if uncached > tokens - reached and isinstance(shown := held.of(number), RankMatch):
                whole = reached - reached % shown.block_size
            else:
                whole = reached
            if uncached > tokens - whole:
                costs.set_uncached(number, max(1.0, tokens - whole))
                held.placed[number] = whole
            elif reached >= len(placement.keys) * UNIT:
                placement.end()  # the events have said so
        return held

    def _left(self, tokens: int, held: Mapping[Tier, int]) -> float:
        """The tokens that a rank must compute if it holds these."""
        left = float(tokens)
        for tier, count in held.items():
            left -= self._weights[tier] * count
        return max(1.0, left)

    def _candidates_for(self, model: str | None, now: float) -> Candidates:
        if now - self._compared >= _COMPARE_SECONDS:
            self._compared = now
            learned = [pod.learned for pod in self._registry]
            if learned != self._learned or len(self._candidates) > _MAX_MODELS:
                self._forget_names()
            self._learned = learned
        found = self._candidates.get(model)
        if found is None:
            ranks = [rank for pod in self._serving(model) for rank in self._ranks_of(pod)]
            shared = (other.demand for other in self._candidates.values() if other.ranks == ranks)
            demand = next(shared, None) or Demand()
            found = self._candidates[model] = Candidates(ranks, demand, self._pod_names())
        return found

    def _serving(self, model: str | None) -> list[Pod]:
        """The pods that list a model or LoRA; if there are none, those whose models are unknown."""
        pods = [pod for pod in self._registry if pod.serves(model)]
        return [pod for pod in pods if pod.models] or pods

    def _ranks_of(self, pod: Pod) -> list[RankWork]:
        ranks = self._work[pod]
        count = pod.learned.ranks if pod.learned is not None else 1
        while len(ranks) < count:
            ranks.append(RankWork(pod, len(ranks), self._median(), freed=self._ended))
            self._work_of.clear()
        return ranks[:count]

    def _ended(self) -> None:
        self.freed()

    def _pod_names(self) -> dict[str, str]:
        if self._names is None:
            self._names = self._registry.names()
        return self._names

    def _forget_names(self) -> None:
        """Finds candidates and names again, after a change of the fleet."""
        self._candidates.clear()
        self._work_of.clear()
        self._names = None

    def _changed(self, pod: Pod, is_there: bool) -> None:
        self._forget_names()
        if is_there:
            self._work[pod] = []
        else:
            self._work.pop(pod, None)

    def _median(self) -> Speed:
        known = [rank for ranks in self._work.values() for rank in ranks if rank.is_known]
        return median_speed([Speed(rank.overhead, rank.seconds_per_token) for rank in known])

    def _refresh(self, now: float) -> None:
        """Ends reservations that expired, and reads the engines' own queues, weights, and speeds that expired."""
        self._refreshed = now
        self.issued.expire()
        ranks = [rank for ranks in self._work.values() for rank in ranks]
        for rank in ranks:
            if rank.samples.expire(now):
                rank.learn_speed()
            load = rank.pod.load.get(rank.number)
            rank.queue_read(load, load.waiting if load is not None else 0.0, self._mean_tokens)
            rank.weight = rank.pod.weight
        if not all(rank.is_known for rank in ranks):
            median = self._median()
            for rank in ranks:
                if not rank.is_known:
                    rank.set_speed(median, is_known=False)


def _can_take(pod: Pod, max_in_flight: int | None) -> bool:
    return pod.is_available and (max_in_flight is None or pod.in_flight < max_in_flight)


def _predicted(tokens: int, reused: RankMatch | int | None) -> int:
    """The tokens that an engine will reuse: never the last one of a prompt."""
    if isinstance(reused, RankMatch):
        return min(reused.tokens, (tokens - 1) // reused.block_size * reused.block_size)
    return min(reused or 0, tokens - 1)
