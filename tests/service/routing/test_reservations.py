from __future__ import annotations

import pytest

from service.contract.pods import PodEntry
from service.fleet.registry import Pod
from service.routing.estimate import Speed
from service.routing.reservations import RankWork


def rank() -> RankWork:
    """A rank that computes 10,000 tokens per second."""
    return RankWork(Pod(PodEntry("http://h:1", "h:1")), 0, Speed(0.0, 1e-4))


def test_work_counts_at_once_and_shrinks_as_it_is_done() -> None:
    one = rank()
    first = one.reserve(1000, 1000, 0.0)
    one.reserve(2000, 2000, 0.0)
    assert one.wait(0.0) == pytest.approx(0.3)
    assert one.wait(0.06) == pytest.approx(0.24)
    first.first_token(0.1)
    assert one.wait(0.1) == pytest.approx(0.2)
    assert (one.prefill_tokens, one.decoding_tokens) == (2000, 1000)


def test_a_prefill_that_is_late_is_expected_to_take_as_long_again() -> None:
    one = rank()
    one.reserve(1000, 1000, 0.0)
    assert one.wait(0.1) == pytest.approx(0.0)
    assert one.wait(0.6) == pytest.approx(0.5)


def test_the_prefill_of_an_answer_that_comes_whole_ends_when_it_is_expected_to() -> None:
    one = rank()
    whole = one.reserve(1000, 1000, 0.0, tells_first_token=False)
    one.reserve(2000, 2000, 0.0)
    assert one.wait(0.15) == pytest.approx(0.15)
    assert one.decoding_tokens == 1000
    whole.end(5.0)
    assert one.decoding_tokens == 0


def test_a_request_that_waits_behind_another_is_timed_from_its_own_start() -> None:
    one = rank()
    first, second = one.reserve(1000, 1000, 0.0), one.reserve(1000, 1000, 0.0)
    first.first_token(0.1)
    second.first_token(0.2)
    assert one.seconds_per_token == pytest.approx(1e-4)


def test_a_request_that_ends_unanswered_teaches_nothing() -> None:
    one = rank()
    one.reserve(8000, 8000, 0.0).end(60.0)
    assert not one.is_known
    assert (one.wait(60.0), one.prefill_tokens, one.requests) == (0.0, 0, 0)
