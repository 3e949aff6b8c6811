"""Log lines on standard output, as text or as one JSON object per line. A thread writes them."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Final

import msgspec

logger = logging.getLogger(__name__)
_STDOUT: Final = 1
_WAITING: Final = 10_000
_FLUSH_SECONDS: Final = 1.0


class HumanFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO    service.app: ready`; of a worker, `… service.app (worker 1): ready`."""

    def __init__(self, worker: int | None = None) -> None:
        name = "%(name)s" if worker is None else f"%(name)s (worker {worker})"
        super().__init__(f"%(asctime)s.%(msecs)03d %(levelname)-7s {name}: %(message)s", "%Y-%m-%d %H:%M:%S")


class JsonFormatter(logging.Formatter):
    """An object per record: time (RFC 3339, UTC), level, logger and message; the worker if there are several, and the
    traceback, if any, as error.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str | int] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _printable(record.getMessage()),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        if record.exc_info:
            line["error"] = _printable(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


def _printable(text: str) -> str:
    """Escapes lone surrogates in external text: UTF-8 cannot encode them."""
    return text.encode("utf-8", "backslashreplace").decode()


class LineWriter:
    """Writes lines in their order from a thread, so that a reader that is slow or stopped holds up nobody."""

    def __init__(self, write: Callable[[bytes], None], most_waiting: int = _WAITING) -> None:
        """Lines above `most_waiting` are dropped. `write` may block; lines for which it raises OSError are lost."""
        self.dropped = 0
        self._write = write
        self._most_waiting = most_waiting
        self._waiting: SimpleQueue[bytes | Event] = SimpleQueue()
        self._starting = Lock()
        self._thread: Thread | None = None

    def put(self, line: bytes) -> None:
        """Takes a line with its end. Never blocks."""
        if self._waiting.qsize() >= self._most_waiting:
            self.dropped += 1
            return
        self._waiting.put(line)
        if self._thread is None:
            self._start()

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Waits until the lines so far are written, but only for so long."""
        if self._thread is not None:
            written = Event()
            self._waiting.put(written)
            written.wait(seconds)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = Thread(target=self._run, name="standard output", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        has_said = False
        while True:
            line = self._waiting.get()
            if isinstance(line, Event):
                line.set()
                continue
            with suppress(OSError):
                self._write(line)
            if self.dropped and not has_said and self._waiting.qsize() < self._most_waiting:
                has_said = True
                logger.warning(
                    "log lines were dropped, since standard output is read too slowly; "
                    "kvcache_log_lines_dropped_total counts them"
                )


def _to_stdout(line: bytes) -> None:
    """Writes without the buffer of sys.stdout: its lock would hold up others while this blocks."""
    while line:
        line = line[os.write(_STDOUT, line) :]


STDOUT: Final = LineWriter(_to_stdout)
"""The standard output of this process."""


class _Handler(logging.Handler):
    """Writes records on standard output; characters that it cannot encode are escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace")
        except Exception:
            self.handleError(record)
        else:
            STDOUT.put(line)


def configure(log_format: str, log_level: str, worker: int | None = None) -> None:
    """Sends every record of `log_level` or above to standard output; of a worker with its number.

    What is waiting at the end of the process is written by `STDOUT.flush`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    handler = _Handler()
    handler.setFormatter(JsonFormatter(worker) if log_format == "json" else HumanFormatter(worker))
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for library in ("asyncio", "httpx", "httpcore", "httpx2", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.WARNING)
