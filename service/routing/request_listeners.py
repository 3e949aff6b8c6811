"""Tells listeners of each request that is routed: where it goes, its first token, and its end.

Without a listener nothing is noted.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from time import time
from typing import Final

import msgspec

from service.routing.choice import Choice
from service.routing.question import Question
from service.routing.request_outcome import RequestOutcome

_WAITING: Final = 1000


class RequestState(StrEnum):
    """How far a request has come."""

    ROUTED = "routed"
    FIRST_TOKEN = "first_token"  # noqa: S105 - no password
    ENDED = "ended"
    FAILED = "failed"
    REFUSED = "refused"
    """No pod could take it."""


class RoutedRequest(RequestOutcome, kw_only=True):
    """A request, or an attempt to send it. Times in seconds from its routing, except `at`, in Unix seconds.

    What is not known, or not yet, is null. It holds nothing of the prompt.
    """

    id: str
    state: RequestState = RequestState.ROUTED
    at: float
    attempt: int = 1
    is_select: bool = False
    """Whether a client takes it there itself, after POST /select."""
    tokens: int | None
    expected_seconds: float | None = None
    """The estimated time to first token."""
    seconds: float | None = None
    status: int | None = None
    problem: str | None = None


class Listener:
    """The states of requests that wait to be read: the last thousand."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._there = asyncio.Event()

    def put(self, encoded: bytes) -> None:
        """Adds a RoutedRequest as JSON. The oldest one is dropped if too many wait."""
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(encoded)
        self._there.set()

    async def read(self) -> tuple[list[bytes], int]:
        """Waits for something, and returns all that waits, with the number of those that were dropped before."""
        await self._there.wait()
        read, dropped = list(self._waiting), self._dropped
        self._waiting.clear()
        self._dropped = 0
        self._there.clear()
        return read, dropped


class RequestReporter:
    """A request whose progress is reported. `first_token` and `ended` have an effect once."""

    __slots__ = ("_listeners", "request")

    def __init__(self, request: RoutedRequest, listeners: set[Listener]) -> None:
        self.request = request
        self._listeners = listeners
        self._report()

    def first_token(self, seconds: float) -> None:
        if self.request.state is RequestState.ROUTED:
            self.request.first_token_seconds = seconds
            self.request.state = RequestState.FIRST_TOKEN
            self._report()

    def answered(self, status: int) -> None:
        self.request.status = status

    def reused(self, tokens: int | None) -> None:
        """Notes how many tokens the engine said that it reused."""
        self.request.cached_tokens = tokens

    def failed(self, problem: str) -> None:
        """Notes why there is no answer, or no whole one."""
        self.request.problem = problem

    def ended(self, seconds: float) -> None:
        request = self.request
        if request.state in (RequestState.ROUTED, RequestState.FIRST_TOKEN):
            request.seconds = seconds
            request.state = RequestState.ENDED if request.problem is None else RequestState.FAILED
            self._report()

    def _report(self) -> None:
        encoded = msgspec.json.encode(self.request)
        for listener in self._listeners:
            listener.put(encoded)


class RequestListeners:
    """The listeners of this process."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._number = 0
        self._prefix = secrets.token_hex(4)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """A listener, until the context ends."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def routed(self, choice: Choice, question: Question, *, attempt: int = 1, is_select: bool = False) -> None:
        """Tells where a request goes; its reservation tells what follows."""
        if not self._listeners:
            return
        request = self._request(question)
        request.note_choice(choice, is_predicted=question.prompt is not None)
        request.attempt, request.is_select, request.expected_seconds = attempt, is_select, choice.seconds
        choice.reservation.reporter = RequestReporter(request, self._listeners)

    def refused(self, question: Question, problem: str) -> None:
        """Tells that no pod could take a request."""
        if self._listeners:
            request = self._request(question)
            request.state, request.problem = RequestState.REFUSED, problem
            RequestReporter(request, self._listeners)

    def _request(self, question: Question) -> RoutedRequest:
        self._number += 1
        identity = f"{self._prefix}-{self._number}"
        return RoutedRequest(id=identity, at=time(), model=question.model, tokens=question.tokens)
