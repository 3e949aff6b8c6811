from __future__ import annotations

import pytest

from service.index.base import Matches
from service.routing.affinity import Affinity, SessionKeys, ends_of
from service.routing.choice import Choice
from service.routing.question import Question
from tests.service.routing.fleets import MODEL, Fleet, held

KEYS = SessionKeys(("session_id", "user", "header:X-Session-Id"))


def ask(fleet: Fleet, session: str, tokens: int | None = None, **fields: object) -> Choice:
    question = Question(model=MODEL, tokens=tokens, session=session, is_streamed=True, **fields)  # type: ignore[arg-type]
    choice = fleet.router.choose(question)
    assert choice is not None
    return choice


@pytest.mark.parametrize(
    ("body", "headers", "key"),
    [
        (b'{"user": "a", "session_id": "b"}', {}, "session_id=b"),
        (b'{"user":"a\\"b"}', {}, 'user=a\\"b'),
        (b'{"messages": [{"role": "user", "content": "\\"user\\": \\"no\\""}]}', {}, None),
        (b'{"user": 7}', {"X-Session-Id": "s"}, "header:X-Session-Id=s"),
        (b"", {}, None),
    ],
)
def test_the_first_name_that_a_request_has_is_its_session(body: bytes, headers: dict[str, str], key: str) -> None:
    assert KEYS.of(headers, ends_of(body)) == key


def test_fields_are_found_before_and_after_long_messages() -> None:
    long = b'"messages": "' + b"x" * 100_000 + b'"'
    assert KEYS.of({}, ends_of(b'{"user": "a", %b}' % long)) == "user=a"
    assert KEYS.of({}, ends_of(b'{%b, "user": "a"}' % long)) == "user=a"


def test_a_session_of_unknown_tokens_stays_on_its_pod_until_that_is_busier_than_a_prompt_is_long() -> None:
    fleet = Fleet(4)
    first = ask(fleet, "a")
    first.reservation.end(fleet.now)
    again = [ask(fleet, "a") for _ in range(3)]
    assert {choice.pod for choice in again} == {first.pod}
    for _ in range(4):
        fleet.choose(4000, tried=tuple(pod for pod in fleet.pods if pod is not first.pod))
    assert ask(fleet, "a").pod is not first.pod


def test_a_session_of_known_tokens_stays_on_its_pod_unless_another_is_clearly_better() -> None:
    fleet = Fleet(2)
    first = ask(fleet, "a", 1000)
    first.reservation.end(fleet.now)
    other = next(pod for pod in fleet.pods if pod is not first.pod)
    assert ask(fleet, "a", 1000, matches=Matches(alone=[held(other, 160)])).pod is first.pod
    fleet = Fleet(2)
    ask(fleet, "a", 1000).reservation.end(fleet.now)
    assert ask(fleet, "a", 1000, matches=Matches(alone=[held(fleet.pods[1], 640)])).pod is fleet.pods[1]


def test_a_session_moves_with_its_last_request() -> None:
    fleet = Fleet(2)
    first, second = fleet.pods
    first.draining = True
    ask(fleet, "a").reservation.end(fleet.now)
    first.draining = False
    assert {ask(fleet, "a").pod for _ in range(2)} == {second}


def test_the_least_recently_used_session_is_forgotten_first() -> None:
    fleet = Fleet(1)
    rank = fleet.choose().reservation.rank
    affinity = Affinity(max_sessions=2)
    for session in (1, 2, 1, 3):
        affinity.note(session, rank)
    assert [affinity.last(session) for session in (1, 2, 3)] == [rank, None, rank]
