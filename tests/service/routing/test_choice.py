from __future__ import annotations

from time import monotonic

import pytest

from service.fleet.registry import Learned, Pod, RankLoad, ServedModel
from service.index.base import Tier
from service.routing.choice import Choice
from service.routing.question import Question
from tests.service.routing.fleets import MODEL, Fleet, held


def chosen(fleet: Fleet, *tried: Pod, max_in_flight: int | None = None) -> Pod | None:
    """The pod for a short prompt; it is not left with a reservation."""
    choice = fleet.router.choose(Question(model=MODEL, tokens=100), tried, max_in_flight)
    if choice is None:
        return None
    choice.reservation.end(fleet.now)
    return choice.pod


def test_the_pod_that_holds_the_prompt_gets_it_unless_it_is_busy_for_longer() -> None:
    fleet = Fleet()
    first, second = fleet.pods
    assert fleet.choose(1000, held(second, 800)).pod is second
    assert fleet.choose(1000, held(second, 800)).pod is second
    fleet.choose(3000, tried=(first,))
    assert fleet.choose(1000, held(second, 800)).pod is first


def test_a_burst_of_different_prompts_spreads_evenly() -> None:
    fleet = Fleet(4)
    pods = [fleet.choose(1000).pod for _ in range(16)]
    assert {pod.name: pods.count(pod) for pod in fleet.pods} == {pod.name: 4 for pod in fleet.pods}


def test_what_lies_on_a_lower_tier_counts_by_its_weight() -> None:
    fleet = Fleet()
    first, second = fleet.pods
    choice = fleet.choose(1000, held(first, 960, tier=Tier.STORAGE), held(second, 640))
    assert choice.pod is second
    assert fleet.choose(1000, held(first, 960, tier=Tier.CPU)).predicted == 960


def test_ranks_of_one_pod_are_candidates_of_their_own() -> None:
    fleet = Fleet(1, ranks=2)
    (pod,) = fleet.pods
    choices = [fleet.choose(1000) for _ in range(2)]
    assert {choice.rank for choice in choices} == {0, 1}
    assert choices[0].names_rank
    assert fleet.choose(1000, held(pod, 960, rank=1)).rank == 1


def test_the_last_token_of_a_prompt_is_never_predicted_as_reused() -> None:
    fleet = Fleet()
    assert fleet.choose(64, held(fleet.pods[0], 64)).predicted == 48
    assert fleet.choose(65, held(fleet.pods[0], 64)).predicted == 64


def test_a_slower_pod_gets_fewer_prompts() -> None:
    fleet = Fleet()
    fast, slow = fleet.pods
    for _ in range(3):
        fleet.serve(fast, 8000, 0.5)
        fleet.serve(slow, 8000, 1.5)
    pods = [fleet.choose(1000).pod for _ in range(16)]
    assert pods.count(fast) == 12


def test_a_new_pod_counts_as_the_median_of_the_fleet_and_is_tried() -> None:
    fleet = Fleet()
    for pod in fleet.pods:
        fleet.serve(pod, 8000, 0.5)
    new = fleet.add(7)
    assert new in [fleet.choose(1000).pod for _ in range(3)]


def test_a_pod_that_was_slow_once_is_tried_again_after_minutes() -> None:
    fleet = Fleet()
    fast, slow = fleet.pods
    fleet.serve(fast, 8000, 0.5)
    fleet.serve(slow, 8000, 60.0)
    assert fleet.choose(1000).pod is fast
    fleet.now += 301
    assert slow in [fleet.choose(1000).pod for _ in range(3)]


def test_requests_of_others_in_an_engine_s_queue_count() -> None:
    fleet = Fleet()
    busy, idle = fleet.pods
    busy.load = {0: RankLoad(running=1, waiting=8)}
    assert fleet.choose(1000, held(busy, 800)).pod is idle


def test_an_older_reading_of_a_queue_does_not_count_requests_from_here_that_are_done() -> None:
    fleet = Fleet()
    busy, idle = fleet.pods
    given = [fleet.choose(1000, tried=(idle,)) for _ in range(8)]
    busy.load = {0: RankLoad(running=1, waiting=7)}
    for choice in given:
        choice.reservation.end(fleet.now)
    fleet.now += 1.1
    assert fleet.choose(1000, held(busy, 800)).pod is busy


def test_among_equals_the_fewest_requests_in_flight_win_by_weight() -> None:
    fleet = Fleet(3)
    first, second, third = fleet.pods
    third.weight = 4.0
    for _ in range(6):
        fleet.choose(1000)
    assert (first.in_flight, second.in_flight, third.in_flight) == (1, 1, 4)


def test_pods_that_cannot_take_a_request_are_left_out() -> None:
    fleet = Fleet(3)
    first, second, third = fleet.pods
    first.draining = True
    second.healthy = False
    third.breaker.failed("no", refused=True)
    assert chosen(fleet) is None
    first.draining = False
    assert chosen(fleet) is first
    assert chosen(fleet, first) is None
    first.in_flight = 2
    assert chosen(fleet, max_in_flight=2) is None


def test_a_request_goes_to_pods_that_list_its_model_or_to_those_whose_models_are_unknown() -> None:
    fleet = Fleet()
    first, second = fleet.pods
    first.learned = Learned((ServedModel(MODEL), ServedModel("lora", parent=MODEL)))
    second.learned = None

    def pods(model: str) -> set[Pod]:
        choices = [fleet.router.choose(Question(model=model, tokens=100)) for _ in range(4)]
        return {choice.pod for choice in choices if choice is not None}

    assert pods("lora") == {first}
    assert pods("other") == {second}
    second.learned = Learned((ServedModel(MODEL),))
    fleet.now += 1
    assert pods("other") == set()
    assert pods(MODEL) == {first, second}


def test_a_pod_that_asked_to_retry_later_is_the_last_choice() -> None:
    fleet = Fleet()
    first, second = fleet.pods
    first.busy_until = monotonic() + 60
    assert fleet.choose(1000, held(first, 960)).pod is second
    assert fleet.choose(1000, held(first, 960), tried=(second,)).pod is first


@pytest.mark.parametrize("is_streamed", [True, False])
def test_every_request_leaves_nothing_behind_however_it_ends(is_streamed: bool) -> None:
    fleet = Fleet()

    def ask() -> Choice:
        choice = fleet.router.choose(Question(model=MODEL, tokens=1000, is_streamed=is_streamed))
        assert choice is not None
        return choice

    for ends in range(4):
        several = [ask() for _ in range(5)]
        for number, choice in enumerate(several):
            fleet.now += 0.05
            if (number + ends) % 2:
                choice.reservation.first_token(fleet.now)
            choice.reservation.end(fleet.now)
            choice.reservation.end(fleet.now)
    assert [pod.in_flight for pod in fleet.pods] == [0, 0]
    for choice in (ask(), ask()):
        rank = choice.reservation.rank
        choice.reservation.end(fleet.now)
        assert (rank.prefill_tokens, rank.decoding_tokens, rank.requests, len(rank.prefills)) == (0, 0, 0, 0)


def test_between_equal_pods_the_one_that_computed_a_prompt_longest_ago_is_chosen() -> None:
    fleet = Fleet(3)
    order = []
    for _ in range(9):
        choice = fleet.choose(1000)
        fleet.now += 0.1
        choice.reservation.first_token(fleet.now)
        choice.reservation.end(fleet.now)
        order.append(choice.pod)
    assert set(order[:3]) == set(fleet.pods)
    assert order[3:6] == order[6:] == order[:3]


def test_a_fleet_whose_answers_come_whole_learns_from_short_ones() -> None:
    fleet = Fleet()
    slow, fast = fleet.pods
    for pod, seconds in ((slow, 2.0), (fast, 0.5)):
        others = tuple(other for other in fleet.pods if other is not pod)
        choice = fleet.router.choose(Question(model=MODEL, tokens=4000), others)
        waiting = fleet.router.choose(Question(model=MODEL, tokens=4000), others)
        assert choice is not None
        assert waiting is not None
        choice.reservation.came_whole(fleet.now + seconds, 4000, 1)
        waiting.reservation.came_whole(fleet.now + 30, 4000, 1)
        fleet.now += 30
        choice.reservation.end(fleet.now, is_computed=True)
        waiting.reservation.end(fleet.now, is_computed=True)
    expected = {one.pod: one.seconds for one in fleet.router.estimates(Question(model=MODEL, tokens=4000))}
    assert (expected[slow], expected[fast]) == pytest.approx((2.0, 0.5)), "what waited tells nothing"
