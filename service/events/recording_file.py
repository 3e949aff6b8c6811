"""A recording on disk that stays readable up to its last line if the process or the disk fails."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from service.events.recording import Recorded, recorded_line


class RecordingFile:
    """Writes each message at once. A context manager; opening raises OSError."""

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path = path
        self.bytes = 0
        self.messages = 0
        self._file = path.open("ab" if append else "xb", buffering=0)
        if append and _is_torn(path):
            self._put(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, message: Recorded) -> None:
        """Writes a message; on a full disk, removes the partial line and raises OSError."""
        self._put(recorded_line(message))
        self.messages += 1

    def _put(self, line: bytes) -> None:
        start, rest = self._file.seek(0, os.SEEK_END), memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(start)
            raise
        self.bytes += len(line)


def _is_torn(path: Path) -> bool:
    """Whether the last line is incomplete, because its writer was killed."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
