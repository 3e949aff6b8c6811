from __future__ import annotations

from tests.service.routing.fleets import Fleet


def test_a_reservation_that_nobody_ends_expires() -> None:
    fleet = Fleet(1)
    issued = fleet.router.issued
    short, long = (issued.issue(fleet.choose().reservation, seconds) for seconds in (10.0, 60.0))
    fleet.now += 30
    assert len(issued) == 1
    assert fleet.pods[0].in_flight == 1
    assert not issued.first_token(short)
    assert issued.first_token(long)
    assert issued.end(long, is_computed=True)
    assert fleet.pods[0].in_flight == 0


def test_reservations_expire_while_only_others_are_routed() -> None:
    fleet = Fleet(1)
    issued = fleet.router.issued
    issued.issue(fleet.choose().reservation, 10.0)
    fleet.now += 30
    fleet.choose().reservation.end(fleet.now)
    assert fleet.pods[0].in_flight == 0
