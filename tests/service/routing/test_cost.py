from __future__ import annotations

from random import Random

import pytest

from service.contract.pods import PodEntry
from service.fleet.registry import Pod
from service.native.backend import RankCosts
from service.routing.cost import best_of, weigh
from service.routing.estimate import Speed
from service.routing.reservations import RankWork
from tests.tries import tries

LENGTHS = (1, 100, 1000, 8000)
SEEDS = tries(50, 2000)


def busy_ranks(random: Random, now: float) -> list[RankWork]:
    """Ranks in any state: idle, with prefills that run or are late, with others' work, of equal and unequal speeds."""
    ranks = []
    for number in range(random.randrange(1, 12)):
        pod = Pod(PodEntry("", str(number)), weight=random.choice((1.0, 1.0, 2.0)))
        rank = RankWork(pod, 0, Speed(random.choice((0.0, 0.05)), random.choice((1e-4, 1e-4, 2e-4))))
        for _ in range(random.randrange(4)):
            reserved = rank.reserve(
                random.choice(LENGTHS), 8000, now - random.random(), tells_first_token=random.random() < 0.8
            )
            if random.random() < 0.3:
                reserved.first_token(now - random.random() / 10)
        if random.random() < 0.3:
            rank.set_others(random.choice(LENGTHS))
        ranks.append(rank)
    return ranks


def weighed(ranks: list[RankWork], uncached: list[float], arrivals: float, reused: float, now: float) -> list[float]:
    """The costs of ranks that must compute so many tokens each."""
    costs = costs_for(ranks, uncached)
    weigh(costs, arrivals, reused, now)
    return [costs.cost(position) for position in range(len(ranks))]


def costs_for(ranks: list[RankWork], uncached: list[float]) -> RankCosts[RankWork]:
    costs = RankCosts(ranks, 0.0)
    for position, tokens in enumerate(uncached):
        costs.set_uncached(position, tokens)
    return costs


def order(rank: RankWork, uncached: float) -> tuple[float, float, float]:
    return uncached, rank.requests / rank.pod.weight, rank.last_prefill


def test_a_cost_is_the_time_to_first_token_and_what_others_lose() -> None:
    for seed in range(SEEDS):
        random, now = Random(seed), 1000.0
        ranks = busy_ranks(random, now)
        uncached = [float(random.choice(LENGTHS)) for _ in ranks]
        arrivals, reused = random.choice((0.0, 0.3, 5.0)), random.random()
        costs = weighed(ranks, uncached, arrivals, reused, now)
        for rank, tokens, cost in zip(ranks, uncached, costs, strict=True):
            wait, prefill = rank.wait(now), tokens * rank.seconds_per_token
            whole = wait + rank.overhead + prefill + prefill * (reused + arrivals * wait)
            assert cost == pytest.approx(whole / rank.pod.weight, abs=1e-12), seed


def test_the_rank_of_the_lowest_cost_is_best_and_ties_have_an_order() -> None:
    for seed in range(SEEDS):
        random, now = Random(seed), 1000.0
        ranks = busy_ranks(random, now)
        uncached = [float(random.choice(LENGTHS)) for _ in ranks]
        costs = costs_for(ranks, uncached)
        weigh(costs, 0.3, 0.2, now)
        left = set(range(len(ranks)))
        while left:
            best = best_of(costs)
            assert best in left, seed
            lowest = min(costs.cost(position) for position in left)
            near = [position for position in left if costs.cost(position) <= 1.1 * lowest]
            orders = {position: order(ranks[position], uncached[position]) for position in near}
            assert orders[best] == min(orders.values()), seed
            costs.rule_out([best])
            left.remove(best)
        assert best_of(costs) is None, seed


def test_each_of_several_equal_ranks_is_chosen_as_often() -> None:
    ranks = [RankWork(Pod(PodEntry("", str(number)))) for number in range(7)]
    costs = costs_for(ranks, [1.0, 2.0, 1.0, 1.0, 2.0, 1.0, 2.0])
    weigh(costs, 0.0, 0.0, 0.0)
    chosen = [costs.best(1.1, chance / 8) for chance in range(8)]
    assert chosen == [0, 0, 2, 2, 3, 3, 5, 5]


def test_work_of_others_alone_is_all_that_a_request_waits_for() -> None:
    rank = RankWork(Pod(PodEntry("", "a")))
    rank.set_others(1000)
    rank.reserve(8000, 8000, 10.0).end(10.1)
    assert rank.wait(10.2) == pytest.approx(1000 * rank.seconds_per_token)
    assert weighed([rank], [0.0], 0.0, 0.0, 10.2) == [rank.wait(10.2)]
