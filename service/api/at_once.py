"""Answers requests that wait for nothing, without the task, request and response that aiohttp makes for each.

Such a request has arrived whole, and its answer needs only what is in memory. It passes the guards of middleware.py,
asked here without taking anything: what one of them refuses, and whatever else is not plain, goes the ordinary way,
where it gets its answer or its error. Nothing has changed until then.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, TypeAlias, TypeVar

from aiohttp import web

from service.api.admission import LARGE_RESPONSE, Admission
from service.api.keys import KeyRing
from service.api.resources import ADMISSION, LIMITS, TRAFFIC
from service.api.traffic import RequestKind

Headers: TypeAlias = tuple[tuple[str, str], ...]
Work: TypeAlias = Callable[[web.Application, Mapping[str, str], bytes], tuple[Headers, bytes] | None]
"""The headers and JSON of the answer to a body with these headers; None if it is not plain, or would wait.

Raises any error. Changes nothing. Gives few different headers: those of every answer are not among them.
"""

_LARGE_BODY: Final = 64 << 10
"""A larger body rarely arrives in one piece."""
_AFTER_LARGE: Final = 100
"""Requests that are not tried after an answer that was too large: it was worked out twice."""
_Result = TypeVar("_Result")


def result_at_once(work: Coroutine[Any, Any, _Result]) -> _Result | None:
    """The result of a coroutine that waits for nothing; None for one that waits, which is abandoned."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _Result = done.value
        return result
    work.close()
    return None


@lru_cache(maxsize=64)
def _head(headers: Headers) -> bytes:
    """The start of an answer, up to the number of its bytes."""
    whole = (*headers, ("Content-Type", "application/json"), ("Server", "kvcache"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in whole)
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: ".encode()


class AnswersAtOnce:
    """The answers at once of one route."""

    def __init__(
        self,
        app: web.Application,
        method: str,
        path: str,
        work: Work,
        *,
        keys: KeyRing,
        permissions: Sequence[str],
        needs_certificate: bool,
    ) -> None:
        self.method = method
        self.needs_certificate = needs_certificate
        self._app = app
        self._work = work
        self._admission: Admission = app[ADMISSION]
        self._traffic = app[TRAFFIC]
        self._keys = None if keys.is_open or not permissions else keys
        self._permissions = permissions
        self._most_bytes = min(_LARGE_BODY, app[LIMITS].max_body_bytes)
        self._kind = RequestKind(method, path, 200)
        self._left_out = 0

    def answer(self, headers: Mapping[str, str], body: bytes, address: str) -> tuple[bytes, bytes] | None:
        """The start of the answer, up to the number of its bytes, and its body; None for the ordinary way.

        It is counted as answered.
        """
        started = perf_counter()
        key = None
        if self._keys is not None and (key := self._keys.would_admit(headers, self._permissions)) is None:
            return None
        if self._left_out or len(body) > self._most_bytes or not self._admission.would_admit(address, len(body)):
            self._left_out = max(0, self._left_out - 1)
            return None
        try:
            found = self._work(self._app, headers, body)
        except Exception:  # the ordinary way has it again, and answers or logs it
            return None
        if found is None:
            return None
        own, answer = found
        if len(answer) > LARGE_RESPONSE:
            self._left_out = _AFTER_LARGE
            return None
        if self._keys is not None and key is not None:
            self._keys.count(key)
        self._traffic.count(self._kind, perf_counter() - started)
        return _head(own), answer


AT_ONCE: Final[web.AppKey[Mapping[str, AnswersAtOnce]]] = web.AppKey("at_once", dict)
"""By the path of the route."""
