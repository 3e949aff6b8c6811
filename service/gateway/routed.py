"""The record of a routed request: where it went, what was predicted, and what came of it, for those who watch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from time import monotonic, time
from typing import Final, TypeAlias

import msgspec
from aiohttp import web

from service.routing.accuracy import Usage
from service.routing.choice import Choice
from service.routing.question import Question

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:+/=@,-]{1,128}")
ID_HEADER: Final = "X-Request-Id"


class Routed(msgspec.Struct, kw_only=True):
    """One request for the pods, complete when it has ended.

    A field is None if it is not known. Seconds count from the headers of the request.
    """

    id: str = ""
    """X-Request-Id of the client if it is a plain word, else one that was made here."""
    received_at: float = 0.0
    """Unix time; 0 if nobody watched when it arrived: then what the gateway does not need is left out."""
    started: float = 0.0
    """The same moment on the monotonic clock."""
    method: str = ""
    path: str = ""
    """Without its query."""
    client: str = ""
    """The address that the connection comes from."""
    model: str | None = None
    is_streamed: bool = False
    pod: str | None = None
    """The pod that answered, or the last one that was tried; None if none could take the request."""
    rank: int | None = None
    predicted_tokens: int | None = None
    predicted_from: str | None = None
    cached_tokens: int | None = None
    """What the engine reused, as it says itself."""
    prompt_tokens: int | None = None
    """As the engine counts them if it tells, else as counted here."""
    generated_tokens: int | None = None
    first_token_seconds: float | None = None
    """Until the first event of a stream."""
    seconds: float = 0.0
    status: int = 0
    """As the client got it; 499 if it left before."""
    bytes: int = 0
    """Of the answer's body, with the framing of its chunks."""
    attempts: int = 0
    client_left: bool = False
    error: str | None = None
    """Why there was no answer, or no whole one."""

    def asked(self, question: Question) -> None:
        self.model, self.is_streamed, self.prompt_tokens = question.model, question.is_streamed, question.tokens

    def chosen(self, choice: Choice, *, is_predicted: bool) -> None:
        self.pod, self.rank = choice.pod.name, choice.rank
        if is_predicted:
            self.predicted_tokens, self.predicted_from = choice.predicted, choice.basis

    def used(self, usage: Usage) -> None:
        self.prompt_tokens, self.cached_tokens, self.generated_tokens = usage

    def first_token(self) -> None:
        if self.first_token_seconds is None:
            self.first_token_seconds = monotonic() - self.started


ROUTED = web.RequestKey("routed", Routed)
"""Set for every request for the pods."""
REQUEST_ID = web.RequestKey("request id", str)
"""Set for a request whose id the engine and the client are told."""
Watcher: TypeAlias = Callable[[Routed], None]


class RoutedRequests:
    """Tells watchers of each request that has ended."""

    def __init__(self, *, tells_ids: bool = False) -> None:
        """`tells_ids`: whether engines and clients get the ids of watched requests."""
        self._tells_ids = tells_ids
        self._watchers: list[Watcher] = []

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Calls `watcher` with each request that ends; returns what ends that. It must not raise or block."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def begin(self, request: web.Request) -> Routed:
        """The record of a request, which the gateway fills."""
        if not self._watchers:
            routed = request[ROUTED] = Routed()
            return routed
        routed = request[ROUTED] = Routed(
            id=sane_id(request) or os.urandom(16).hex(),
            received_at=time(),
            started=monotonic(),
            method=request.method,
            path=request.rel_url.raw_path,
            client=request.remote or "",
        )
        if self._tells_ids:
            request[REQUEST_ID] = routed.id
        return routed

    def end(self, routed: Routed) -> None:
        if not routed.received_at:
            return
        routed.seconds = monotonic() - routed.started
        for watcher in tuple(self._watchers):
            watcher(routed)


def sane_id(request: web.Request) -> str | None:
    """The client's X-Request-Id; None without one, and for one with characters that no id needs or above 128."""
    given = request.headers.get(ID_HEADER)
    return given if given is not None and _SANE_ID.fullmatch(given) else None
