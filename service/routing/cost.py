"""The cost of a rank: the seconds until the first token, and the time that other requests lose by it."""

from __future__ import annotations

from math import exp
from random import Random
from typing import Final

from service.native.backend import RankCosts
from service.routing.reservations import RankWork

_TIE: Final = 0.1
"""Costs that differ less are equal: speeds are not known better."""
_random = Random()  # noqa: S311 - nothing is secret here


class Demand:
    """The requests for some ranks: how many arrive per second, and which share of their tokens is reused."""

    __slots__ = ("_last", "_rate", "reused")
    _SECONDS: Final = 30.0
    _SHARE: Final = 0.02

    def __init__(self) -> None:
        self._rate = 0.0
        self._last = 0.0
        self.reused = 0.0

    def arrivals(self, now: float) -> float:
        """Requests per second over the last half minute."""
        return self._rate * exp((self._last - now) / self._SECONDS) if self._rate else 0.0

    def count(self, now: float) -> None:
        """Counts a request that arrives."""
        self._rate = self.arrivals(now) + 1 / self._SECONDS
        self._last = now

    def chosen(self, tokens: int, uncached: int) -> None:
        """Counts the tokens of a prompt, and those that its rank must compute."""
        self.reused += ((tokens - uncached) / max(1, tokens) - self.reused) * self._SHARE


def weigh(costs: RankCosts[RankWork], arrivals: float, reused: float, now: float) -> None:
    """Computes what each rank costs for a prompt of which it must compute the given tokens, in seconds.

    The estimated time to first token, and what the choice costs others. A rank that is busy for w seconds gets
    `arrivals * w` further requests meanwhile (`arrivals` per second and rank), and each waits for this prefill, too.
    Each computed token evicts another one, which would have been reused with the probability `reused`. Costs are
    divided by the weights of pods.
    """
    costs.weigh(arrivals, reused, now)


def best_of(costs: RankCosts[RankWork]) -> int | None:
    """The position of the lowest cost; None if all ranks are ruled out.

    Among nearly equal ones, of the fewest uncached tokens, then of the fewest requests in flight, then of the rank
    whose last prefill is the longest ago, so that new prefixes spread over the caches, then at random.
    """
    return costs.best(1 + _TIE, _random.random())
