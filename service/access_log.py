"""The access log: one line on standard output for each routed request, as JSON or aligned for people.

A line never holds a prompt, an answer, a header or a query, and is shorter than 4,096 bytes: several workers write to
one pipe, which keeps such lines whole.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from service.gateway.routed import Routed
from service.log import STDOUT

_LOGGER: Final = "service.routed"
_MAX_PATH: Final = 256
_MAX_NAME: Final = 128
_MAX_ERROR: Final = 200


class _Line(msgspec.Struct):
    time: str
    level: str
    logger: str
    id: str
    trace_id: str | None
    method: str
    path: str
    status: int
    seconds: float
    first_token_seconds: float | None
    pod: str | None
    rank: int | None
    model: str | None
    stream: bool
    prompt_tokens: int | None
    predicted_tokens: int | None
    predicted_from: str | None
    cached_tokens: int | None
    generated_tokens: int | None
    bytes: int
    retries: int
    client: str
    client_left: bool
    error: str | None
    worker: int | None
    """None if there is one process."""


class AccessLog:
    """Writes a line for each request that it is called with."""

    def __init__(
        self, *, is_json: bool, worker: int | None = None, write: Callable[[bytes], None] = STDOUT.put
    ) -> None:
        """`worker` is the number of this process among several; `write` must not block."""
        self._format = _json if is_json else _human
        self._worker = worker
        self._write = write

    def __call__(self, routed: Routed) -> None:
        self._write(self._format(routed, self._worker))


def _json(routed: Routed, worker: int | None) -> bytes:
    line = _Line(
        datetime.fromtimestamp(routed.received_at, UTC).isoformat(timespec="milliseconds"),
        "info",
        _LOGGER,
        routed.id,
        routed.trace.id,
        routed.method,
        _cut(routed.path, _MAX_PATH),
        routed.status,
        round(routed.seconds, 6),
        None if routed.first_token_seconds is None else round(routed.first_token_seconds, 6),
        None if routed.pod is None else _cut(routed.pod, _MAX_NAME),
        routed.rank,
        None if routed.model is None else _cut(routed.model, _MAX_NAME),
        routed.is_streamed,
        routed.prompt_tokens,
        routed.predicted_tokens,
        routed.predicted_from,
        routed.cached_tokens,
        routed.generated_tokens,
        routed.bytes,
        max(0, routed.attempts - 1),
        routed.client,
        routed.client_left,
        None if routed.error is None else _cut(routed.error, _MAX_ERROR),
        worker,
    )
    return msgspec.json.encode(line) + b"\n"


def _human(routed: Routed, worker: int | None) -> bytes:
    """Times are in seconds; a hyphen stands for an unknown value. What a stranger chose comes last."""
    at = datetime.fromtimestamp(routed.received_at).astimezone()
    name = _LOGGER if worker is None else f"{_LOGGER} (worker {worker})"
    pod = "-" if routed.pod is None else f"{_word(routed.pod, _MAX_NAME)}/{routed.rank}"
    columns = (
        f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} INFO    {name}: {routed.status:<3d}",
        f"pod={pod:<23}",
        f"predicted={_number(routed.predicted_tokens):<6}",
        f"cached={_number(routed.cached_tokens):<6}",
        f"prompt={_number(routed.prompt_tokens):<6}",
        f"generated={_number(routed.generated_tokens):<6}",
        f"first={_seconds(routed.first_token_seconds):<7}",
        f"total={_seconds(routed.seconds):<7}",
        f"retries={max(0, routed.attempts - 1)}",
        f"bytes={routed.bytes:<8d}",
        f"client={routed.client:<15}",
        f"left={'yes' if routed.client_left else 'no':<3}",
        f"id={routed.id}",
        f"{routed.method} {_word(routed.path, _MAX_PATH)}",
        f"model={'-' if routed.model is None else _word(routed.model, _MAX_NAME)}",
        *(() if routed.error is None else (f"error={_quoted(_cut(routed.error, _MAX_ERROR))}",)),
    )
    return (" ".join(columns) + "\n").encode()


def _cut(text: str, characters: int) -> str:
    """At most so many characters; those that do not print are escaped."""
    text = text[: characters + 1]
    if not text.isprintable():
        text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _word(text: str, characters: int) -> str:
    """The text as it is, or in quotes if it has spaces or quotes."""
    cut = _cut(text, characters)
    return cut if " " not in cut and '"' not in cut else _quoted(cut)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
