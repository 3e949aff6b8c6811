"""The routing of the service as a policy for simulations of a fleet: no HTTP, no clock, no knob."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from service.contract.pods import PodEntry
from service.fleet.registry import Pod
from service.native.backend import RankCosts
from service.routing.cost import Demand, best_of, weigh
from service.routing.estimate import Speed, median_speed
from service.routing.reservations import RankWork, Reservation


class Candidate(Protocol):
    """An engine as the simulation shows it."""

    uncached: int


class Policy:
    """Chooses among engines that end prefills in the order of their requests."""

    def __init__(self) -> None:
        self._ranks: list[RankWork] = []
        self._prefills: list[deque[Reservation]] = []
        self._decoding: list[deque[Reservation]] = []
        self._demand = Demand()

    def choose(self, now: float, request: Mapping[str, int], candidates: Sequence[Candidate]) -> int:
        for number in range(len(self._ranks), len(candidates)):
            self._ranks.append(RankWork(Pod(PodEntry("", str(number)))))
            self._prefills.append(deque())
            self._decoding.append(deque())
        costs = RankCosts(self._ranks, 0.0)
        for position, candidate in enumerate(candidates):
            costs.set_uncached(position, candidate.uncached)
        tokens, arrivals = request["input_length"], self._demand.arrivals(now) / len(candidates)
        self._demand.count(now)
        weigh(costs, arrivals, self._demand.reused, now)
        chosen = best_of(costs)
        assert chosen is not None  # noqa: S101 - no rank is ruled out
        self._demand.chosen(tokens, candidates[chosen].uncached)
        reservation = self._ranks[chosen].reserve(candidates[chosen].uncached, tokens, now)
        self._prefills[chosen].append(reservation)
        return chosen

    def first_token(self, now: float, index: int, uncached: int, seconds: float) -> None:
        reservation = self._prefills[index].popleft()
        reservation.first_token(now)
        self._decoding[index].append(reservation)
        known = [Speed(rank.overhead, rank.seconds_per_token) for rank in self._ranks if rank.is_known]
        if len(known) < len(self._ranks):
            speed = median_speed(known)
            for rank in self._ranks:
                if not rank.is_known:
                    rank.set_speed(speed, is_known=False)

    def finished(self, now: float, index: int) -> None:
        self._decoding[index].popleft().end(now)
