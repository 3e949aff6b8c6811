"""The load that ranks have been given and have not finished: every request in flight is a reservation.

Times are in seconds of a monotonic clock, and given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Protocol

from service.fleet.registry import Pod
from service.native.backend import RankLoad
from service.routing.estimate import DEFAULT, PrefillSamples, Speed, WholeAnswers

_LEARN_SECONDS: Final = 1.0


class Placement(Protocol):
    """Blocks that the rank will hold."""

    def computed(self, now: float) -> None: ...
    def end(self) -> None: ...


class Reporter(Protocol):
    """Tells listeners of the course of one request; times in seconds since its reservation."""

    def first_token(self, seconds: float) -> None: ...
    def answered(self, status: int) -> None: ...
    def reused(self, tokens: int | None) -> None: ...
    def failed(self, problem: str) -> None: ...
    def ended(self, seconds: float) -> None: ...


class ReplicaNotifier(Protocol):
    """Tells other replicas of the requests that this one gives to ranks."""

    def given(self, reservation: Reservation, keys: Sequence[int], session: int | None) -> None:
        """A request was given to a rank, with the keys of its placement and of its session."""
        ...

    def first_token(self, reservation: Reservation) -> None: ...

    def ended(self, reservation: Reservation, *, is_computed: bool) -> None: ...


class RankWork(RankLoad):
    """One rank as a candidate: its reservations, and its prefill speed.

    Prefills end in the order of their reservations, so that the work in front of the next one is known.
    """

    __slots__ = (
        "_is_guessed",
        "_learned_at",
        "_most_prefills",
        "_queue_reading",
        "decoding_tokens",
        "ended_at",
        "freed",
        "heard_at",
        "is_known",
        "number",
        "others_tokens",
        "pod",
        "prefill_tokens",
        "prefills",
        "samples",
        "whole_answers",
    )

    def __init__(
        self, pod: Pod, number: int = 0, speed: Speed = DEFAULT, *, freed: Callable[[], None] = lambda: None
    ) -> None:
        """`freed` is called when a request ends."""
        super().__init__(*speed, pod.weight)
        self.pod = pod
        self.freed = freed
        self.number = number
        self.heard_at = -inf
        """When the last of its events were applied."""
        self.ended_at = -inf
        """When the last of its requests ended."""
        self.is_known = False
        """Whether the speed is the rank's own, not the fleet's median."""
        self._is_guessed = speed is DEFAULT
        self.samples = PrefillSamples()
        self.whole_answers = WholeAnswers()
        self._learned_at = -inf
        self.prefills: dict[Reservation, None] = {}
        """Reservations without a first token, oldest first."""
        self.prefill_tokens = 0
        self.decoding_tokens = 0
        self.others_tokens = 0.0
        """Tokens to prefill that wait in the engine's queue besides those given here, as its metrics say."""
        self._queue_reading: object = None
        self._most_prefills = 0
        """The most prefills at a time since the last reading of the queue."""

    def reserve(self, uncached: int, tokens: int, now: float, *, tells_first_token: bool = True) -> Reservation:
        """Gives the rank a request with so many uncached tokens of `tokens` tokens.

        The first token of a request whose answer comes whole is not seen: its prefill ends when it is expected to.
        """
        is_first = not self.is_busy
        if not self.prefills:
            self.last_prefill = now
        reservation = Reservation(
            self, max(1, uncached), tokens, now, tells_first_token=tells_first_token, is_first=is_first
        )
        self.prefills[reservation] = None
        self._most_prefills = max(self._most_prefills, len(self.prefills))
        self.prefill_tokens += reservation.uncached
        self.requests += 1
        self.pod.in_flight += 1
        self._update()
        return reservation

    def wait(self, now: float) -> float:
        """Seconds until the rank has done the prefills that it was given."""
        if not self.prefills:
            return self.behind
        left = self.finish - now
        return left + self.behind if left >= 0 else self.wait_if_late(now)

    def wait_if_late(self, now: float) -> float:
        """`wait` after `finish`: a prefill that is late is expected to take as long again as it is late.

        While no speed of the fleet is known, it is the speed that is wrong: the prefill is expected to take its time.
        """
        while self.prefills:
            oldest = next(iter(self.prefills))
            left = self.finish - now
            if left > 0 or oldest.tells_first_token:
                longest = oldest.uncached * self.seconds_per_token if self._is_guessed else inf
                return min(abs(left), longest) + self.behind
            self._end_prefill(oldest, self.finish)
            self.decoding_tokens += oldest.tokens
        return self.behind

    def set_speed(self, speed: Speed, *, is_known: bool) -> None:
        self.overhead, self.seconds_per_token = speed
        self.is_known = is_known
        self._is_guessed = speed is DEFAULT
        self._update()

    def queue_read(self, reading: object, waiting: float, mean_tokens: float) -> None:
        """Takes the number of requests that wait at the engine, as it was read from its metrics.

        A reading is a second old and taken once: what was given here may have waited then, and be done by now.
        """
        if reading is not self._queue_reading:
            self._queue_reading = reading
            self.set_others(max(0.0, waiting - self._most_prefills) * mean_tokens)
            self._most_prefills = len(self.prefills)

    def set_others(self, tokens: float) -> None:
        self.others_tokens = tokens
        self._update()

    def learn_speed(self) -> None:
        """Takes the speed from the samples; without enough of them it is unknown."""
        speed = self.samples.speed()
        if speed is not None:
            self.set_speed(speed, is_known=True)
        else:
            self.is_known = False

    def _learn(self, tokens: int, seconds: float, now: float) -> None:
        self.samples.add(tokens, seconds, now)
        if now - self._learned_at >= _LEARN_SECONDS or not self.is_known:
            self._learned_at = now
            self.learn_speed()

    def _end_prefill(self, reservation: Reservation, at: float) -> None:
        del self.prefills[reservation]
        self.prefill_tokens -= reservation.uncached
        self.last_prefill = at
        self._update()

    def _update(self) -> None:
        tokens = self.prefill_tokens + self.others_tokens
        self.is_busy = tokens > 0
        for oldest in self.prefills:
            tokens -= oldest.uncached
            self.finish = self.last_prefill + oldest.uncached * self.seconds_per_token
            break
        else:
            self.finish = -inf
        self.behind = tokens * self.seconds_per_token


class Reservation:
    """One request in flight at a rank. `first_token` and `end` may be called in any order, and more than once."""

    __slots__ = (
        "_has_first_token",
        "_is_ended",
        "_is_first",
        "_started",
        "notifier",
        "placement",
        "rank",
        "reporter",
        "tells_first_token",
        "tokens",
        "uncached",
    )

    def __init__(
        self, rank: RankWork, uncached: int, tokens: int, now: float, *, tells_first_token: bool, is_first: bool
    ) -> None:
        """`is_first` if no other prefill is in front of it."""
        self._is_first = is_first
        self.rank = rank
        self.uncached = uncached
        self.tokens = tokens
        self.tells_first_token = tells_first_token
        self.placement: Placement | None = None
        self.notifier: ReplicaNotifier | None = None
        self.reporter: Reporter | None = None
        """There if somebody listens."""
        self._started = now
        self._is_ended = False
        self._has_first_token = False

    @property
    def is_decoding(self) -> bool:
        """Whether its prefill is done, or is expected to be."""
        return self not in self.rank.prefills

    def first_token(self, now: float) -> None:
        """Moves the request from prefill to decoding; the rank learns from its duration."""
        rank = self.rank
        if self.notifier is not None and not self._has_first_token and not self._is_ended:
            self.notifier.first_token(self)
        if self.reporter is not None:
            self.reporter.first_token(now - self._started)
        self._has_first_token = True
        if self.placement is not None:
            self.placement.computed(now)
        if self not in rank.prefills:
            return
        began = max(self._started, rank.last_prefill)
        rank._end_prefill(self, now)
        rank.decoding_tokens += self.tokens
        if self.tells_first_token and now > began:
            rank._learn(self.uncached, now - began, now)

    def came_whole(self, now: float, uncached: int, generated: int) -> None:
        """Learns from an answer without a first token, of `generated` tokens, to a prompt of `uncached` tokens.

        The answer to a request that waited for other prefills tells nothing.
        """
        if self.tells_first_token or not self._is_first:
            return
        prefill = self.rank.whole_answers.prefill(now - self._started, generated)
        if prefill is not None and prefill > 0:
            self.rank._learn(max(1, uncached), prefill, now)

    def end(self, now: float, *, is_computed: bool = False) -> None:
        """Ends the request. `is_computed` tells that its answer came, if its first token was not seen."""
        if self._is_ended:
            return
        self._is_ended = True
        if self.notifier is not None:
            self.notifier.ended(self, is_computed=is_computed)
        if self.reporter is not None:
            self.reporter.ended(now - self._started)
        rank = self.rank
        if self.placement is not None:
            if is_computed:
                self.placement.computed(now)
            elif not self._has_first_token:
                self.placement.end()
        if self in rank.prefills:
            is_oldest = next(iter(rank.prefills)) is self
            rank._end_prefill(self, now if is_oldest else rank.last_prefill)
        else:
            rank.decoding_tokens -= self.tokens
        rank.requests -= 1
        rank.ended_at = now
        rank.pod.in_flight -= 1
        rank.freed()
