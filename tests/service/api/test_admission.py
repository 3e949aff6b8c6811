from __future__ import annotations

from contextlib import ExitStack

import pytest

from service.api.admission import Admission
from service.api.errors import ApiError


def test_requests_above_the_limit_are_rejected_until_one_is_released() -> None:
    admission = Admission(2, 2, 100)
    first, second, third = (admission.reserve(peer) for peer in ("a", "b", "c"))
    first.take_place()
    second.take_place()
    with pytest.raises(ApiError, match="MAX_REQUESTS_IN_FLIGHT") as rejected:
        third.take_place()
    assert (rejected.value.status, rejected.value.headers) == (429, {"Retry-After": "1"})
    first.release()
    first.release()
    third.take_place()
    assert admission.requests == 2


def test_one_peer_cannot_take_all_places() -> None:
    admission = Admission(4, 3, 100)
    for _ in range(3):
        admission.reserve("a").take_place()
    with pytest.raises(ApiError, match="MAX_REQUESTS_PER_PEER"):
        admission.reserve("a").take_place()
    admission.reserve("b").take_place()


def test_bytes_above_the_limit_are_rejected_until_some_are_released() -> None:
    admission = Admission(4, 4, 100)
    first, second = admission.reserve("a"), admission.reserve("b")
    first.charge(60)
    second.charge(40)
    with pytest.raises(ApiError, match="MAX_BYTES_IN_FLIGHT"):
        second.charge(1)
    first.release()
    second.charge(60)
    assert admission.bytes == 100


def test_one_peer_cannot_take_all_bytes() -> None:
    admission = Admission(4, 2, 100)
    admission.reserve("a").charge(50)
    with pytest.raises(ApiError, match="MAX_BYTES_IN_FLIGHT"):
        admission.reserve("a").charge(1)
    admission.reserve("b").charge(50)


def test_a_single_request_may_hold_more_bytes_than_the_limit() -> None:
    admission = Admission(4, 1, 100)
    alone = admission.reserve("a")
    alone.charge(150)
    alone.charge(150)
    assert admission.bytes == 300


@pytest.mark.parametrize("by", ["place", "bytes"])
def test_the_request_that_waits_longest_for_its_client_is_dropped_to_make_room(by: str) -> None:
    admission = Admission(2, 2, 100, patience=0)
    dropped: list[str] = []
    with ExitStack() as waiting:
        for name in ("first", "second"):
            reservation = admission.reserve(name)
            reservation.take_place()
            reservation.charge(50)
            waiting.enter_context(reservation.waiting_for_client(lambda name=name: dropped.append(name)))  # type: ignore[misc]
        wanting = admission.reserve("third")
        if by == "place":
            wanting.take_place()
        else:
            wanting.charge(10)
        assert dropped == ["first"]
    assert admission.requests == (2 if by == "place" else 1)


def test_a_request_that_waits_for_its_client_is_not_dropped_at_once() -> None:
    admission = Admission(1, 1, 100, patience=3600)
    reservation = admission.reserve("a")
    reservation.take_place()
    with reservation.waiting_for_client(pytest.fail), pytest.raises(ApiError):
        admission.reserve("b").take_place()


def test_a_dropped_request_cannot_charge_bytes() -> None:
    admission = Admission(1, 1, 100)
    reservation = admission.reserve("a")
    reservation.release()
    reservation.charge(10)
    assert admission.bytes == 0
