from __future__ import annotations

from time import monotonic

from service.contract.pods import parse_pods
from service.fleet.registry import Learned, Pod, ServedModel
from service.gateway.choice import Match, Question, choose


def pods(count: int = 3) -> list[Pod]:
    return [Pod(entry) for entry in parse_pods(",".join(f"http://h:{8000 + number}" for number in range(count)))]


def test_the_best_score_wins_then_the_fewest_requests_by_weight() -> None:
    first, second, third = fleet = pods()
    first.in_flight, second.in_flight, third.in_flight = 2, 1, 3
    assert choose(fleet, Question(), []) is second
    third.weight = 4.0
    assert choose(fleet, Question(), []) is third
    assert choose(fleet, Question(matches={first.name: Match(2.0, 0, 512)}), []) is first


def test_pods_that_cannot_take_a_request_are_left_out() -> None:
    first, second, third = fleet = pods()
    first.draining = True
    second.healthy = False
    third.breaker.failed("no", refused=True)
    assert choose(fleet, Question(), []) is None
    first.draining = False
    assert choose(fleet, Question(), []) is first
    assert choose(fleet, Question(), [first]) is None
    first.in_flight = 2
    assert choose(fleet, Question(), [], max_in_flight=2) is None
    first.learned = Learned((ServedModel("m"),))
    assert choose(fleet, Question("other"), []) is None
    assert choose(fleet, Question("m"), []) is first


def test_a_pod_that_asked_to_retry_later_is_the_last_choice() -> None:
    first, second = fleet = pods(2)
    first.busy_until = monotonic() + 60
    question = Question(matches={first.name: Match(9.0, 0, 2304)})
    assert choose(fleet, question, []) is second
    assert choose(fleet, question, [second]) is first
