"""Admits requests: bounds the requests in flight and their bytes, in total and per peer address.

A request takes a place when its body is complete, and holds it until its response is sent. Bytes count from the first
one received. If another request needs a place or bytes, the request that has waited longest for its client (to send
the rest of a body, or to read a response) is dropped: slow clients cannot block others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from service.api.errors import ApiError


class Admission:
    """The places and bytes of all requests in flight."""

    def __init__(self, max_requests: int, max_requests_per_peer: int, max_bytes: int, patience: float = 1.0) -> None:
        """A peer address may hold the same share of the bytes as of the requests.

        A request is dropped only after it has waited `patience` seconds for its client.
        """
        self.requests = 0
        self.bytes = 0
        self._patience = patience
        self._max_requests = max_requests
        self._max_requests_per_peer = min(max_requests, max_requests_per_peer)
        self._max_bytes = max_bytes
        self._max_bytes_per_peer = max_bytes * self._max_requests_per_peer // max_requests
        self._requests_of: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()
        self._waiting: dict[Reservation, tuple[float, Callable[[], None]]] = {}

    def reserve(self, peer: str, *, needs_place: bool = True) -> Reservation:
        """A reservation without place and bytes for a request from `peer`; a place is not always needed later."""
        return Reservation(self, peer, needs_place=needs_place)

    def _take_place(self, reservation: Reservation) -> None:
        peer = reservation.peer
        if self._requests_of[peer] >= self._max_requests_per_peer:
            limit = f"{self._max_requests_per_peer} requests of {peer} are in flight (MAX_REQUESTS_PER_PEER)"
            raise _too_many(limit)
        while self.requests >= self._max_requests:
            if not self._drop_slowest(reservation, lambda other: other.has_place):
                raise _too_many(f"{self._max_requests} requests are in flight (MAX_REQUESTS_IN_FLIGHT)")
        self.requests += 1
        self._requests_of[peer] += 1

    def _charge(self, reservation: Reservation, size: int) -> None:
        peer = reservation.peer
        of_others = self._bytes_of[peer] - reservation.bytes
        if of_others and of_others + reservation.bytes + size > self._max_bytes_per_peer:
            raise _too_many(f"the requests of {peer} hold too many bytes (MAX_BYTES_IN_FLIGHT)")
        while self.bytes > reservation.bytes and self.bytes + size > self._max_bytes:
            if not self._drop_slowest(reservation, lambda other: other.bytes > 0):
                raise _too_many(f"the requests in flight hold {self._max_bytes} bytes (MAX_BYTES_IN_FLIGHT)")
        self.bytes += size
        self._bytes_of[peer] += size

    def _drop_slowest(self, wanting: Reservation, helps: Callable[[Reservation], bool]) -> bool:
        """Drops the request that has waited longest for its client; False if none has waited long enough."""
        latest = monotonic() - self._patience
        for reservation, (since, drop) in self._waiting.items():
            if since > latest:
                return False
            if reservation is not wanting and helps(reservation):
                del self._waiting[reservation]
                reservation.release()
                drop()
                return True
        return False

    def _give_back(self, reservation: Reservation) -> None:
        peer = reservation.peer
        self.bytes -= reservation.bytes
        _subtract(self._bytes_of, peer, reservation.bytes)
        if reservation.has_place:
            self.requests -= 1
            _subtract(self._requests_of, peer, 1)


class Reservation:
    """The place and the bytes of one request."""

    __slots__ = ("_admission", "_needs_place", "_released", "bytes", "has_place", "peer")

    def __init__(self, admission: Admission, peer: str, *, needs_place: bool) -> None:
        self.peer = peer
        self.bytes = 0
        self.has_place = False
        self._admission = admission
        self._needs_place = needs_place
        self._released = False

    def take_place(self) -> None:
        """Raises ApiError 429 if no place is free."""
        if self._needs_place and not self._released:
            self._admission._take_place(self)
            self.has_place = True

    def charge(self, size: int) -> None:
        """Adds bytes; raises ApiError 429 if there is no room for them."""
        if not self._released:
            self._admission._charge(self, size)
            self.bytes += size

    @contextmanager
    def waiting_for_client(self, drop: Callable[[], None]) -> Iterator[None]:
        """While the request waits for its client, another one may take its place and bytes and then calls `drop`."""
        self._admission._waiting[self] = (monotonic(), drop)
        try:
            yield
        finally:
            self._admission._waiting.pop(self, None)

    def release(self) -> None:
        """Returns the place and the bytes. Idempotent."""
        if not self._released:
            self._released = True
            self._admission._give_back(self)
            self.bytes = 0
            self.has_place = False


def _subtract(counter: Counter[str], key: str, number: int) -> None:
    counter[key] -= number
    if not counter[key]:
        del counter[key]


def _too_many(reason: str) -> ApiError:
    return ApiError(429, f"{reason}; try again in a second", headers={"Retry-After": "1"})
