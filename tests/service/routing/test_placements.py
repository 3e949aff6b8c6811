from __future__ import annotations

from array import array

from service.index.base import Prompt
from service.routing.choice import Question
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
    assert (first.is_certain, second.is_certain) == (True, False)


def test_a_burst_with_one_prefix_is_computed_by_few_pods() -> None:
    fleet = Fleet(8)
    choices = [fleet.ask(prompt) for prompt in prompts(50)]
    assert sum(choice.predicted == 0 for choice in choices) <= 2


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


def test_a_placement_ends_when_the_events_show_its_blocks() -> None:
    fleet = Fleet()
    first = fleet.ask(SHARED)
    shown = fleet.ask(SHARED + text(2, 32), held(first.pod, 4096))
    assert (shown.pod, shown.predicted, shown.is_certain) == (first.pod, 4096, True)
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
