from __future__ import annotations

from array import array

import pytest

from service.index.base import Prompt, Rank, RankMatch, Tier
from service.routing.choice import Basis
from service.routing.question import Question
from tests.service.routing.fleets import MODEL, Fleet, held, text

SHARED = text(1, 4096)


def prompts(count: int) -> list[array[int]]:
    """Prompts with one long prefix."""
    return [SHARED + text(10 + number, 64) for number in range(count)]


def test_a_prefix_counts_as_held_where_a_request_with_it_was_sent() -> None:
    fleet = Fleet(4)
    first, second = (fleet.ask(prompt) for prompt in prompts(2))
    assert second.pod is first.pod
    assert second.predicted == 4096
    assert (first.basis, second.basis) == (Basis.EVENTS, Basis.PLACEMENT)


def test_a_prediction_tells_whether_other_requests_may_change_the_blocks_first() -> None:
    fleet = Fleet(1)
    first = fleet.choose(100)
    second = fleet.choose(100, held(first.pod, 64))
    first.reservation.end(fleet.now)
    second.reservation.end(fleet.now)
    fleet.now += 0.1
    third = fleet.choose(100, held(first.pod, 64))  # the last events may be on their way
    third.reservation.end(fleet.now)
    fleet.now += 0.6
    fourth = fleet.choose(100, held(first.pod, 64))
    bases = [choice.basis for choice in (first, second, third, fourth)]
    assert bases == [Basis.EVENTS, Basis.IN_FLIGHT, Basis.IN_FLIGHT, Basis.EVENTS]


def test_a_prediction_tells_whether_the_rank_is_inexact() -> None:
    fleet = Fleet(1)
    inexact: set[Rank] = set()
    fleet.router.is_exact = lambda rank: rank not in inexact
    (pod,) = fleet.pods
    inexact.add(held(pod, 64).rank)
    choices = [fleet.choose(100, held(pod, 64)), fleet.ask(text(1, 100))]  # with blocks, and without
    assert [choice.basis for choice in choices] == [Basis.INEXACT, Basis.INEXACT]
    inexact.clear()
    for choice in choices:
        choice.reservation.end(fleet.now)
    fleet.now += 0.6
    assert fleet.choose(100, held(pod, 64)).basis is Basis.EVENTS


def test_a_burst_with_one_prefix_is_computed_by_few_pods() -> None:
    fleet = Fleet(8)
    choices = [fleet.ask(prompt) for prompt in prompts(50)]
    assert sum(choice.predicted == 0 for choice in choices) <= 2


def test_a_prefix_that_is_computed_for_long_is_not_computed_elsewhere_while_no_speed_is_known() -> None:
    fleet = Fleet(2)
    first = fleet.ask(SHARED)
    fleet.now += 4.0
    assert fleet.ask(SHARED).pod is first.pod
    slow = Fleet(2)
    for pod in slow.pods:
        slow.serve(pod, 4000, 0.4)
    first = slow.ask(SHARED)
    slow.now += 4.0
    assert slow.ask(SHARED).pod is not first.pod, "this one is slower than all before"


def test_a_placement_ends_after_five_seconds() -> None:
    fleet = Fleet()
    fleet.ask(prompts(2)[0])
    fleet.now += 5
    assert fleet.ask(prompts(2)[1]).predicted == 0
    fleet.now += 5
    fleet.ask(text(3))
    assert len(fleet.router.placements) == 1


def test_events_are_believed_soon_after_the_first_token() -> None:
    fleet = Fleet()
    first = fleet.ask(SHARED)
    first.reservation.first_token(fleet.now)
    fleet.now += 0.4
    assert fleet.ask(SHARED, tried=tuple(pod for pod in fleet.pods if pod is not first.pod)).predicted == 4095
    fleet = Fleet()
    first = fleet.ask(SHARED)
    first.reservation.first_token(fleet.now)
    fleet.now += 0.6
    assert fleet.ask(SHARED).predicted == 0


def test_a_placement_ends_with_the_first_events_after_the_first_token() -> None:
    fleet = Fleet()
    first = fleet.ask(SHARED)
    rank = Rank(first.pod.name, MODEL)
    fleet.router.heard(rank)
    assert fleet.ask(SHARED).predicted == 4095, "these are events of earlier requests"
    fleet.now += 0.1
    first.reservation.first_token(fleet.now)
    fleet.now += 0.1
    others = tuple(pod for pod in fleet.pods if pod is not first.pod)
    fleet.router.heard(Rank(others[0].name, MODEL))
    second = fleet.ask(SHARED)
    assert (second.pod, second.predicted) == (first.pod, 4095)
    second.reservation.end(fleet.now)
    fleet.router.heard(rank)
    assert fleet.ask(SHARED, tried=others).predicted == 0, "the engine may have evicted the blocks"


@pytest.mark.parametrize("seconds", [0, 2])
def test_the_placement_of_an_answer_that_came_whole_ends_like_that_of_a_stream(seconds: float) -> None:
    fleet = Fleet(1)
    first = fleet.router.choose(Question(model=MODEL, tokens=4096, prompt=Prompt(MODEL, SHARED)))
    assert first is not None
    fleet.now += seconds
    fleet.router.estimates(Question(model=MODEL))  # its prefill is taken to have ended by then
    first.reservation.end(fleet.now, is_computed=True)
    fleet.now += 0.4
    assert fleet.ask(SHARED).predicted == 4095
    fleet = Fleet(1)
    fleet.ask(SHARED).reservation.end(fleet.now, is_computed=True)
    fleet.now += 0.6
    assert fleet.ask(SHARED).predicted == 0


def test_a_request_that_fails_after_its_prefill_was_taken_to_have_ended_leaves_no_placement() -> None:
    fleet = Fleet(1)
    first = fleet.router.choose(Question(model=MODEL, tokens=4096, prompt=Prompt(MODEL, SHARED)))
    assert first is not None
    fleet.now += 2
    fleet.router.estimates(Question(model=MODEL))
    first.reservation.end(fleet.now)
    assert fleet.ask(SHARED).predicted == 0


def test_a_placement_counts_in_whole_blocks_of_the_rank() -> None:
    fleet = Fleet(1)
    prompt = text(1, 528)
    first = fleet.ask(prompt)
    choice = fleet.ask(prompt + text(2, 64), RankMatch(Rank(first.pod.name, MODEL), 32, {Tier.GPU: 512}))
    assert (choice.predicted, choice.basis) == (512, Basis.IN_FLIGHT)


def test_a_placement_ends_when_the_events_show_its_blocks() -> None:
    fleet = Fleet()
    first = fleet.ask(SHARED)
    shown = fleet.ask(SHARED + text(2, 32), held(first.pod, 4096))
    assert (shown.pod, shown.predicted, shown.basis) == (first.pod, 4096, Basis.IN_FLIGHT)
    shown.reservation.end(fleet.now)
    assert fleet.ask(SHARED).predicted == 0, "the engine has evicted the blocks since"


def test_a_request_that_ends_before_its_first_token_leaves_no_placement() -> None:
    fleet = Fleet()
    fleet.ask(SHARED).reservation.end(fleet.now)
    assert fleet.ask(SHARED).predicted == 0


def test_an_answer_that_came_whole_leaves_its_placement() -> None:
    fleet = Fleet()
    first = fleet.ask(SHARED)
    first.reservation.end(fleet.now, is_computed=True)
    assert fleet.ask(SHARED).predicted == 4095


def test_a_prompt_that_shares_a_part_ends_no_placement_of_more() -> None:
    fleet = Fleet()
    first = fleet.ask(SHARED)
    fleet.ask(SHARED[:512] + text(2), held(first.pod, 512))
    assert fleet.ask(SHARED + text(3, 64)).predicted == 4096


def test_prompts_of_other_salts_share_nothing() -> None:
    fleet = Fleet()
    fleet.ask(SHARED)
    prompt = Prompt(MODEL, SHARED, cache_salt="other")
    choice = fleet.router.choose(Question(model=MODEL, tokens=4096, prompt=prompt))
    assert choice is not None
    assert choice.predicted == 0
