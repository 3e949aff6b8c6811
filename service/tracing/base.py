"""The tracing of routed requests: the protocol, and the implementation that records nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from typing import Final, NamedTuple, Protocol, TypeAlias

Facts: TypeAlias = Mapping[str, str | int | float | bool]
"""Attributes of a span, named as in OpenTelemetry's semantic conventions; those of our own begin with `kvcache.`."""
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class Arrival(NamedTuple):
    """A request as it arrives. `route` is the pattern of its path, `context` are its traceparent and tracestate."""

    method: str
    route: str
    path: str
    scheme: str
    client: str
    context: Mapping[str, str]


class Attempt(Protocol):
    """A request to one pod."""

    headers: Headers
    """The trace's context in place of the client's; none if the client's passes as it is."""

    def first_byte(self) -> None:
        """Notes when the answer began."""
        ...

    def end(self, status: int | None = None, error: str | None = None) -> None:
        """Ends it with the status of the answer, or the kind of error. Idempotent."""
        ...


class Trace(Protocol):
    """A routed request."""

    id: str | None
    """The trace id in hexadecimal digits if the trace is recorded."""

    def step(self, name: str) -> AbstractContextManager[object]:
        """Times a part of the work."""
        ...

    def attempt(self, facts: Facts) -> Attempt:
        """Begins a request to a pod."""
        ...

    def end(self, status: int, facts: Facts, error: str | None = None) -> None:
        """Ends the trace, as the client has its answer."""
        ...


class Tracer(Protocol):
    """Begins a trace for each routed request."""

    is_on: bool

    def begin(self, arrival: Arrival) -> Trace: ...

    async def close(self) -> None:
        """Exports the last spans, or gives them up after half a second."""
        ...


class _Nothing:
    """A Tracer, Trace and Attempt that records nothing: there is one object, and it makes no others."""

    is_on = False
    id: str | None = None
    headers: Headers = ()

    def begin(self, arrival: Arrival) -> Trace:
        return self

    def step(self, name: str) -> AbstractContextManager[object]:
        return _NO_STEP

    def attempt(self, facts: Facts) -> Attempt:
        return self

    def first_byte(self) -> None: ...

    def end(self, *_: object, **__: object) -> None: ...

    async def close(self) -> None: ...


_NO_STEP: Final = nullcontext()
NOTHING: Final = _Nothing()
_current: ContextVar[Trace] = ContextVar("trace", default=NOTHING)


def step(name: str) -> AbstractContextManager[object]:
    """Times a part of the work for the trace of the request that is handled now, if it has one."""
    return _current.get().step(name)


def enter(trace: Trace) -> Token[Trace]:
    """Makes it the trace of the request that is handled now, until `leave`."""
    return _current.set(trace)


def leave(token: Token[Trace]) -> None:
    _current.reset(token)
