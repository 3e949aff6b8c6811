"""The load that ranks have been given and have not finished: every request in flight is a reservation.

Times are in seconds of a monotonic clock, and given by the caller.
"""

from __future__ import annotations

from service.fleet.registry import Pod
from service.routing.estimate import DEFAULT, PrefillSamples, Speed


class RankWork:
    """One rank as a candidate: its reservations, and its prefill speed.

    Prefills end in the order of their reservations, so that the work in front of the next one is known.
    """

    __slots__ = (
        "decoding_tokens",
        "is_known",
        "number",
        "others_tokens",
        "overhead",
        "pod",
        "prefill_tokens",
        "prefills",
        "requests",
        "samples",
        "seconds_per_token",
        "since",
        "weight",
    )

    def __init__(self, pod: Pod, number: int = 0, speed: Speed = DEFAULT) -> None:
        self.pod = pod
        self.number = number
        self.overhead, self.seconds_per_token = speed
        self.is_known = False
        """Whether the speed is the rank's own, not the fleet's median."""
        self.samples = PrefillSamples()
        self.prefills: dict[Reservation, None] = {}
        """Reservations without a first token, oldest first."""
        self.prefill_tokens = 0
        self.decoding_tokens = 0
        self.requests = 0
        self.others_tokens = 0.0
        """Tokens to prefill that wait in the engine's queue besides those given here, as its metrics say."""
        self.weight = pod.weight
        self.since = 0.0
        """Time from which the oldest prefill runs."""

    def reserve(self, uncached: int, tokens: int, now: float, *, tells_first_token: bool = True) -> Reservation:
        """Gives the rank a request with so many uncached tokens of `tokens` tokens.

        The first token of a request whose answer comes whole is not seen: its prefill ends when it is expected to.
        """
        if not self.prefills:
            self.since = now
        reservation = Reservation(self, max(1, uncached), tokens, now, tells_first_token)
        self.prefills[reservation] = None
        self.prefill_tokens += reservation.uncached
        self.requests += 1
        self.pod.in_flight += 1
        return reservation

    def wait(self, now: float) -> float:
        """Seconds until the rank has done the prefills that it was given.

        A prefill that is late is expected to take as long again as it is late.
        """
        waiting = self.others_tokens * self.seconds_per_token
        while self.prefills:
            oldest = next(iter(self.prefills))
            expected = oldest.uncached * self.seconds_per_token
            left = expected - (now - self.since)
            if left > 0 or oldest.tells_first_token:
                return waiting + (self.prefill_tokens - oldest.uncached) * self.seconds_per_token + abs(left)
            self._end_prefill(oldest, self.since + expected)
            self.decoding_tokens += oldest.tokens
        return waiting

    def set_speed(self, speed: Speed, *, is_known: bool) -> None:
        self.overhead, self.seconds_per_token = speed
        self.is_known = is_known

    def learn_speed(self) -> None:
        """Takes the speed from the samples; without enough of them it is unknown."""
        speed = self.samples.speed()
        if speed is not None:
            self.set_speed(speed, is_known=True)
        else:
            self.is_known = False

    def _end_prefill(self, reservation: Reservation, at: float) -> None:
        del self.prefills[reservation]
        self.prefill_tokens -= reservation.uncached
        self.since = at


class Reservation:
    """One request in flight at a rank. `first_token` and `end` may be called in any order, and more than once."""

    __slots__ = ("_is_ended", "_started", "rank", "tells_first_token", "tokens", "uncached")

    def __init__(self, rank: RankWork, uncached: int, tokens: int, now: float, tells_first_token: bool) -> None:
        self.rank = rank
        self.uncached = uncached
        self.tokens = tokens
        self.tells_first_token = tells_first_token
        self._started = now
        self._is_ended = False

    def first_token(self, now: float) -> None:
        """Moves the request from prefill to decoding; the rank learns from its duration."""
        rank = self.rank
        if self not in rank.prefills:
            return
        began = max(self._started, rank.since)
        rank._end_prefill(self, now)
        rank.decoding_tokens += self.tokens
        if self.tells_first_token and now > began:
            rank.samples.add(self.uncached, now - began, now)
            rank.learn_speed()

    def end(self, now: float) -> None:
        """Ends the request, answered or not."""
        if self._is_ended:
            return
        self._is_ended = True
        rank = self.rank
        if self in rank.prefills:
            is_oldest = next(iter(rank.prefills)) is self
            rank._end_prefill(self, now if is_oldest else rank.since)
        else:
            rank.decoding_tokens -= self.tokens
        rank.requests -= 1
        rank.pod.in_flight -= 1
