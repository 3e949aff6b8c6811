"""The snapshot in STATE_DIR: written beside the last one, then renamed, so that one of them is always whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import time
from typing import BinaryIO

from service.replicas.snapshot_format import Record, check, frame, start

_NAME = "index.snapshot"
_LOCK = "lock"
_PIECE = 256 * 1024


class SnapshotFile:
    """One folder, and at most one process that writes there. Methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        return self._folder / _NAME

    def acquire(self) -> bool:
        """Whether this process is the one that writes; the place is given back when it ends. Raises OSError."""
        if self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._lock = descriptor
        return True

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def begin(self) -> Writing:
        """Starts a new snapshot. Raises OSError."""
        return Writing(self.path)

    def open(self) -> BinaryIO | None:
        """The snapshot, checked whole before any of it is used; None if there is none.

        Raises SnapshotError and OSError.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return None
        try:
            check(file)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file


class Writing:
    """A snapshot that is being written. Raises OSError; what was written until then is removed by `abandon`."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._beside = path.with_suffix(".new")
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=_PIECE)
        self._write(start(time()))

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._write(frame(record))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)

    def finish(self, end: Record) -> None:
        """Puts the snapshot in the place of the last one, on the disk before it is renamed."""
        self._write(frame(end))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._beside.unlink()


def pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
