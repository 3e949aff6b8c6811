from __future__ import annotations

import pytest

from service.fleet.breaker import FIRST_BACKOFF, MAX_BACKOFF, MAX_FAILURES, CircuitBreaker
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock)


def state_of(breaker: CircuitBreaker) -> str:
    return breaker.state.name


def test_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(MAX_FAILURES - 1):
        breaker.failed("reset")
    breaker.succeeded()
    for _ in range(MAX_FAILURES):
        assert breaker.allows()
        breaker.failed("reset")
    assert (state_of(breaker), breaker.allows(), breaker.reason) == ("OPEN", False, "reset")


def test_a_refused_connection_opens_it_at_once_and_a_health_check_closes_it(breaker: CircuitBreaker) -> None:
    breaker.failed("refused", refused=True)
    assert state_of(breaker) == "OPEN"
    breaker.reachable()
    assert state_of(breaker) == "CLOSED"
    for _ in range(MAX_FAILURES):
        breaker.failed("reset")
    breaker.reachable()
    assert state_of(breaker) == "OPEN"


def test_after_the_backoff_one_request_decides(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.failed("refused", refused=True)
    clock.now = FIRST_BACKOFF
    assert state_of(breaker) == "HALF_OPEN"
    breaker.started()
    assert not breaker.allows()
    breaker.failed("refused", refused=True)
    clock.now += FIRST_BACKOFF
    assert state_of(breaker) == "OPEN"
    clock.now += FIRST_BACKOFF
    assert breaker.allows()
    breaker.started()
    breaker.abandoned()
    assert breaker.allows()
    breaker.succeeded()
    assert state_of(breaker) == "CLOSED"


def test_the_backoff_has_a_limit(breaker: CircuitBreaker) -> None:
    for _ in range(20):
        breaker.failed("refused", refused=True)
    assert breaker.retry_after == MAX_BACKOFF


def test_an_answer_that_has_begun_closes_it_and_one_more_failure_opens_it_again(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    for _ in range(MAX_FAILURES):
        breaker.failed("reset")
    clock.now = FIRST_BACKOFF
    breaker.started()
    assert not breaker.allows()
    breaker.answering()
    assert (state_of(breaker), breaker.allows()) == ("CLOSED", True)
    breaker.failed("reset")
    assert state_of(breaker) == "OPEN"
