"""Reservations of clients that take their requests to the engines themselves, by id; one that nobody ends expires."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_urlsafe
from time import monotonic
from typing import Final, NamedTuple

from service.routing.reservations import Reservation

_MAX_ISSUED: Final = 100_000


class TooManyReservations(Exception):
    """More reservations than this service keeps."""


class _Issued(NamedTuple):
    reservation: Reservation
    expires: float


class IssuedReservations:
    """Reservations by id."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._issued: dict[str, _Issued] = {}
        self._next_expiry = 0.0
        self.start_of_name: Callable[[Reservation], str] = lambda reservation: ""
        """Tells other replicas whose reservation it is."""

    def __len__(self) -> int:
        self.expire()
        return len(self._issued)

    def issue(self, reservation: Reservation, seconds: float) -> str:
        """An id for a reservation, which ends after so many seconds at most. Raises TooManyReservations."""
        self.expire()
        if len(self._issued) >= _MAX_ISSUED:
            raise TooManyReservations(f"there are {_MAX_ISSUED} reservations already")
        name = self.start_of_name(reservation) + token_urlsafe(12)
        expires = self._clock() + seconds
        self._issued[name] = _Issued(reservation, expires)
        self._next_expiry = min(self._next_expiry, expires) if len(self._issued) > 1 else expires
        return name

    def first_token(self, name: str) -> bool:
        """Notes the first token of a request; False for an unknown id."""
        self.expire()
        issued = self._issued.get(name)
        if issued is not None:
            issued.reservation.first_token(self._clock())
        return issued is not None

    def end(self, name: str, *, is_computed: bool) -> bool:
        """Ends a reservation; False for an unknown id."""
        self.expire()
        issued = self._issued.pop(name, None)
        if issued is not None:
            issued.reservation.end(self._clock(), is_computed=is_computed)
        return issued is not None

    def expire(self) -> None:
        """Ends the reservations whose time is over."""
        now = self._clock()
        if now < self._next_expiry or not self._issued:
            return
        for name in [name for name, issued in self._issued.items() if issued.expires <= now]:
            self._issued.pop(name).reservation.end(now)
        self._next_expiry = min((issued.expires for issued in self._issued.values()), default=now)
