"""The costs of ranks for one request, compiled by mypyc; service/native/fallback.py computes the same."""

from __future__ import annotations

from mypy_extensions import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class RankLoad:
    def __init__(self, overhead: float, seconds_per_token: float) -> None:
        self.overhead = overhead
        self.seconds_per_token = seconds_per_token
        self.is_busy = False
        self.finish = 0.0
        self.behind = 0.0

    def wait(self, now: float) -> float:
        return max(0.0, self.finish - now) + self.behind


def costs_of(ranks: list[RankLoad], uncached: list[float], arrivals: float, reused: float, now: float) -> list[float]:
    evicting = 1.0 + reused
    costs: list[float] = []
    for position, rank in enumerate(ranks):
        tokens = uncached[position]
        if rank.is_busy:
            wait = rank.finish - now + rank.behind if rank.finish > now else rank.wait(now)
            costs.append(wait + rank.overhead + tokens * rank.seconds_per_token * (evicting + arrivals * wait))
        else:
            costs.append(rank.overhead + tokens * rank.seconds_per_token * evicting)
    return costs


def near_lowest(costs: list[float], factor: float) -> list[int]:
    lowest = costs[0]
    for cost in costs:
        lowest = min(lowest, cost)
    limit = lowest * factor
    near: list[int] = []
    for position, cost in enumerate(costs):
        if cost <= limit:
            near.append(position)
    return near
