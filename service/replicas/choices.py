"""The requests in flight of all replicas: load, placements and sessions are told with each choice.

Each replica tells of a request that it gave to a rank, of its first token, and of its end, and once per second of all
that are in flight, so that a message that was lost matters no longer than that. The requests of a replica that is gone
end with it.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, TypeAlias

import msgspec

from service.replicas.shared.state import SharedState
from service.routing.choice import Given, Router
from service.routing.reservations import Reservation

_CHANNEL: Final = "choices"
WAIT_SECONDS: Final = 0.02
"""How long an answer may wait to hear from another replica through a store."""
WAIT_FOR_WORKER_SECONDS: Final = 1.0
"""The same where all replicas are processes of one machine: nothing between them is lost, but all may be busy."""


class _Given(msgspec.Struct, frozen=True, array_like=True, tag=1):
    number: int
    pod: str
    rank: int
    uncached: int
    tokens: int
    keys: bytes
    """64 bits each."""
    session: int | None


class _FirstToken(msgspec.Struct, frozen=True, array_like=True, tag=2):
    number: int


class _Ended(msgspec.Struct, frozen=True, array_like=True, tag=3):
    number: int
    is_computed: bool


class _Standing(msgspec.Struct, frozen=True, array_like=True):
    number: int
    pod: str
    rank: int
    uncached: int
    tokens: int
    is_decoding: bool


class _All(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All requests in flight of a replica."""

    requests: list[_Standing]


class _Issued(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A client told the replica that sends this of a reservation of the replica that it names."""

    name: str
    is_first_token: bool
    is_computed: bool


_Message: TypeAlias = _Given | _FirstToken | _Ended | _All | _Issued
_decode = msgspec.msgpack.Decoder(_Message).decode
_encode = msgspec.msgpack.Encoder().encode


class _Other(msgspec.Struct):
    """The requests of another replica."""

    requests: dict[int, Reservation] = msgspec.field(default_factory=dict)
    """Requests in flight, by number."""
    last: int = -1
    """The highest number so far."""


class SharedChoices:
    """Tells the other replicas of this one's choices, and the router of theirs. Valid for one event loop."""

    def __init__(
        self,
        shared: SharedState,
        router: Router,
        clock: Callable[[], float] = monotonic,
        *,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._shared = shared
        self._router = router
        self._issued = router.issued
        self._clock = clock
        self._next = 0
        self._own: dict[Reservation, int] = {}
        self._others: dict[str, _Other] = {}
        self._wait_seconds = wait_seconds
        self._heard = asyncio.Event()
        router.notifier = self
        router.issued.start_of_name = self._start_of_name
        shared.subscribe(_CHANNEL, self._received)
        shared.watch_beat(self._tell_all)
        shared.watch_members(self._member)

    # Of this replica: a ReplicaNotifier of the router

    def given(self, reservation: Reservation, keys: Sequence[int], session: int | None) -> None:
        number = self._next
        self._next += 1
        self._own[reservation] = number
        reservation.notifier = self
        rank = reservation.rank
        packed = array("Q", keys).tobytes() if keys else b""
        self._tell(
            _Given(number, rank.pod.name, rank.number, reservation.uncached, reservation.tokens, packed, session)
        )

    def first_token(self, reservation: Reservation) -> None:
        self._tell(_FirstToken(self._own[reservation]))

    def ended(self, reservation: Reservation, *, is_computed: bool) -> None:
        self._tell(_Ended(self._own.pop(reservation), is_computed))

    def _tell_all(self) -> None:
        standing = [
            _Standing(number, one.rank.pod.name, one.rank.number, one.uncached, one.tokens, is_decoding=one.is_decoding)
            for one, number in self._own.items()
        ]
        self._tell(_All(standing))

    def _tell(self, message: _Message) -> None:
        self._shared.publish(_CHANNEL, _encode(message))

    # Of the others

    def _received(self, sender: str, message: bytes) -> None:
        other = self._others.get(sender)
        if other is None:  # it is gone, or has not introduced itself: it will tell all of this again
            return
        told = _decode(message)
        others = other.requests
        match told:
            case _Given():
                keys = array("Q", told.keys)
                given = Given(told.pod, told.rank, told.uncached, told.tokens, keys, told.session)
                self._add(other, told.number, given)
            case _FirstToken(number):
                if number in others:
                    others[number].first_token(self._clock())
            case _Ended(number, is_computed):
                self._end(others, number, is_computed=is_computed)
            case _All(requests):
                self._compare(other, requests)
            case _Issued():
                self._apply(told)
        self._heard.set()

    def _add(self, other: _Other, number: int, given: Given) -> None:
        other.last = max(other.last, number)
        if number not in other.requests and (reservation := self._router.given_elsewhere(given)) is not None:
            other.requests[number] = reservation
            reservation.rank.pod.in_flight_elsewhere += 1

    def _end(self, others: dict[int, Reservation], number: int, *, is_computed: bool = False) -> None:
        reservation = others.pop(number, None)
        if reservation is not None:
            reservation.rank.pod.in_flight_elsewhere -= 1
            reservation.end(self._clock(), is_computed=is_computed)

    def _compare(self, other: _Other, requests: list[_Standing]) -> None:
        """Ends what has ended unheard, and adds what is new here."""
        others = other.requests
        for number in others.keys() - {one.number for one in requests}:
            self._end(others, number)
        for one in requests:
            self._add(other, one.number, Given(one.pod, one.rank, one.uncached, one.tokens))
            if one.is_decoding and one.number in others:
                others[one.number].first_token(self._clock())

    def _member(self, name: str, is_there: bool) -> None:
        if is_there:
            self._others[name] = _Other()
        elif (other := self._others.pop(name, None)) is not None:
            for number in list(other.requests):
                self._end(other.requests, number)

    # Reservations that clients end, at whichever replica

    def _start_of_name(self, reservation: Reservation) -> str:
        return f"{self._shared.name.rpartition('-')[2]}-{self._own[reservation]}-"

    async def first_token_elsewhere(self, name: str) -> bool:
        """Tells the replica of a reservation of its first token; False if there is no such reservation elsewhere."""
        return await self._tell_owner(_Issued(name, is_first_token=True, is_computed=False))

    async def end_elsewhere(self, name: str, *, is_computed: bool) -> bool:
        """Tells the replica of a reservation of its end; False if there is no such reservation elsewhere."""
        return await self._tell_owner(_Issued(name, is_first_token=False, is_computed=is_computed))

    async def _tell_owner(self, message: _Issued) -> bool:
        """Waits for a moment if the reservation is so new that its replica has not told of it yet."""
        owner, _, rest = message.name.partition("-")
        digits, _, _ = rest.partition("-")
        other = next((one for name, one in self._others.items() if name.rpartition("-")[2] == owner), None)
        if other is None or not digits.isdecimal():
            return False
        number = int(digits)
        try:
            async with asyncio.timeout(self._wait_seconds):
                while number > other.last:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return False
        is_known = number in other.requests
        if is_known:
            self._tell(message)
        return is_known

    def _apply(self, told: _Issued) -> None:
        if told.is_first_token:
            self._issued.first_token(told.name)
        else:
            self._issued.end(told.name, is_computed=told.is_computed)
