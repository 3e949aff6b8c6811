"""The access log: one line on standard output for each routed request, as JSON or aligned for people.

A line never holds a prompt, an answer, a header or a query, and is shorter than 4,096 bytes: several workers write to
one pipe, which keeps such lines whole.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from service.gateway.request_record import RequestRecord
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

    def __call__(self, record: RequestRecord) -> None:
        self._write(self._format(record, self._worker))


def _json(record: RequestRecord, worker: int | None) -> bytes:
    line = _Line(
        datetime.fromtimestamp(record.received_at, UTC).isoformat(timespec="milliseconds"),
        "info",
        _LOGGER,
        record.id,
        record.trace.id,
        record.method,
        _cut(record.path, _MAX_PATH),
        record.status,
        round(record.seconds, 6),
        None if record.first_token_seconds is None else round(record.first_token_seconds, 6),
        None if record.pod is None else _cut(record.pod, _MAX_NAME),
        record.rank,
        None if record.model is None else _cut(record.model, _MAX_NAME),
        record.is_streamed,
        record.prompt_tokens,
        record.predicted_tokens,
        record.predicted_from,
        record.cached_tokens,
        record.generated_tokens,
        record.bytes,
        max(0, record.attempts - 1),
        record.client,
        record.client_left,
        None if record.error is None else _cut(record.error, _MAX_ERROR),
        worker,
    )
    return msgspec.json.encode(line) + b"\n"


def _human(record: RequestRecord, worker: int | None) -> bytes:
    """Times are in seconds; a hyphen stands for an unknown value. What a stranger chose comes last."""
    at = datetime.fromtimestamp(record.received_at).astimezone()
    name = _LOGGER if worker is None else f"{_LOGGER} (worker {worker})"
    pod = "-" if record.pod is None else f"{_word(record.pod, _MAX_NAME)}/{record.rank}"
    columns = (
        f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} INFO    {name}: {record.status:<3d}",
        f"pod={pod:<23}",
        f"predicted={_number(record.predicted_tokens):<6}",
        f"cached={_number(record.cached_tokens):<6}",
        f"prompt={_number(record.prompt_tokens):<6}",
        f"generated={_number(record.generated_tokens):<6}",
        f"first={_seconds(record.first_token_seconds):<7}",
        f"total={_seconds(record.seconds):<7}",
        f"retries={max(0, record.attempts - 1)}",
        f"bytes={record.bytes:<8d}",
        f"client={record.client:<15}",
        f"left={'yes' if record.client_left else 'no':<3}",
        f"id={record.id}",
        f"{record.method} {_word(record.path, _MAX_PATH)}",
        f"model={'-' if record.model is None else _word(record.model, _MAX_NAME)}",
        *(() if record.error is None else (f"error={_quoted(_cut(record.error, _MAX_ERROR))}",)),
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
