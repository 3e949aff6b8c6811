"""Admits requests: bounds the requests in flight and their bytes, in total and per peer address.

A request takes a place when its body is complete, and holds it until its response is sent. Bytes count from the first
one received. If another request needs a place or bytes, the request that has waited longest for its client (to send
the rest of a body, or to read a response) is dropped: slow clients cannot block others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from service.api.errors import ApiError

LARGE_RESPONSE: Final = 64 << 10
"""A response up to this size fits into the buffers of the system and of the event loop, and is sent immediately."""


class _Peer:
    """Places and bytes that the requests of one peer address hold; kept while it has reservations."""

    __slots__ = ("address", "bytes", "requests", "reservations")

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests = self.bytes = self.reservations = 0


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
        self._peers: dict[str, _Peer] = {}
        self._waiting: dict[Reservation, tuple[float, Callable[[], None]]] = {}

    def reserve(self, address: str, *, needs_place: bool = True) -> Reservation:
        """A reservation without place and bytes for a request from `address`; a place is not always needed later."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(address)
        peer.reservations += 1
        return Reservation(self, peer, needs_place)

    def would_admit(self, address: str, size: int) -> bool:
        """Whether a request from `address` with `size` bytes fits without dropping another one."""
        peer = self._peers.get(address)
        return (
            self.requests < self._max_requests
            and self.bytes + size <= self._max_bytes
            and (
                peer is None
                or (peer.requests < self._max_requests_per_peer and peer.bytes + size <= self._max_bytes_per_peer)
            )
        )

    def _make_place(self, reservation: Reservation) -> None:
        while self.requests >= self._max_requests:
            if not self._drop_slowest(reservation, lambda other: other.has_place):
                raise _too_many(f"{self._max_requests} requests are in flight (MAX_REQUESTS_IN_FLIGHT)")

    def _make_room(self, reservation: Reservation, size: int) -> None:
        while self.bytes > reservation.bytes and self.bytes + size > self._max_bytes:
            if not self._drop_slowest(reservation, lambda other: other.bytes > 0):
                raise _too_many(f"the requests in flight hold {self._max_bytes} bytes (MAX_BYTES_IN_FLIGHT)")

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


class Reservation:
    """The place and the bytes of one request.

    Every request passes here, so its methods change the sums of Admission and of the peer themselves: a call to each of
    them would take longer than the sums.
    """

    __slots__ = ("_admission", "_needs_place", "_peer", "_released", "bytes", "has_place")

    def __init__(self, admission: Admission, peer: _Peer, needs_place: bool) -> None:
        self.bytes = 0
        self.has_place = False
        self._admission = admission
        self._peer = peer
        self._needs_place = needs_place
        self._released = False

    def take_place(self) -> None:
        """Raises ApiError 429 if no place is free."""
        if self._released or not self._needs_place:
            return
        admission, peer = self._admission, self._peer
        if peer.requests >= admission._max_requests_per_peer:
            limit = f"{admission._max_requests_per_peer} requests of {peer.address} are in flight"
            raise _too_many(f"{limit} (MAX_REQUESTS_PER_PEER)")
        if admission.requests >= admission._max_requests:
            admission._make_place(self)
        admission.requests += 1
        peer.requests += 1
        self.has_place = True

    def charge(self, size: int) -> None:
        """Adds bytes; raises ApiError 429 if there is no room for them."""
        if self._released:
            return
        admission, peer = self._admission, self._peer
        if peer.bytes > self.bytes and peer.bytes + size > admission._max_bytes_per_peer:
            raise _too_many(f"the requests of {peer.address} hold too many bytes (MAX_BYTES_IN_FLIGHT)")
        if admission.bytes + size > admission._max_bytes:
            admission._make_room(self, size)
        admission.bytes += size
        peer.bytes += size
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
        if self._released:
            return
        self._released = True
        admission, peer = self._admission, self._peer
        admission.bytes -= self.bytes
        peer.bytes -= self.bytes
        admission.requests -= self.has_place
        peer.requests -= self.has_place
        peer.reservations -= 1
        if not peer.reservations:
            del admission._peers[peer.address]
        self.bytes = 0
        self.has_place = False


def _too_many(reason: str) -> ApiError:
    return ApiError(429, f"{reason}; try again in a second", headers={"Retry-After": "1"})
