"""Log lines on standard output, as text or as one JSON object per line."""

from __future__ import annotations

import io
import logging
import sys
from datetime import UTC, datetime

import msgspec


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


def configure(log_format: str, log_level: str, worker: int | None = None) -> None:
    """Sends every record of `log_level` or above to standard output, without buffering; of a worker with its number."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(worker) if log_format == "json" else HumanFormatter(worker))
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for library in ("asyncio", "httpx", "httpcore", "httpx2", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.WARNING)
