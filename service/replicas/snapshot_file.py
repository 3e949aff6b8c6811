"""The snapshot in STATE_DIR: written beside the last one, then renamed, so that one of them is always whole."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from time import time
from typing import BinaryIO

from service.replicas.snapshot_format import Record, check, frame, start

_NAME = "index.snapshot"
_LOCK = "lock"
_PIECE = 256 * 1024


class SnapshotFile:
    """A `SnapshotPlace` in a folder. The right to write is a lock that ends with the process."""

    def __init__(self, folder: Path, *, is_shared: bool = False) -> None:
        """`is_shared` among the workers of one machine."""
        self._folder = folder
        self.is_shared = is_shared
        self._lock: int | None = None

    @property
    def name(self) -> str:
        return str(self._folder)

    @property
    def path(self) -> Path:
        return self._folder / _NAME

    async def acquire(self) -> int:
        return int(self._lock is not None or await asyncio.to_thread(self._acquire))

    def _acquire(self) -> bool:
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

    async def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def begin(self) -> FileWriting:
        return await asyncio.to_thread(FileWriting, self.path)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file is checked whole before any of it is given."""
        file = await asyncio.to_thread(self._open)
        if file is not None:
            with file:
                while piece := file.read(_PIECE):
                    yield piece

    def _open(self) -> BinaryIO | None:
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


class FileWriting:
    """A `Writing` into a file; the disk is waited for in threads."""

    def __init__(self, path: Path) -> None:
        """Blocks: call it in a thread."""
        self.size = 0
        self._path = path
        self._beside = path.with_suffix(".new")
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=_PIECE)
        self._write(start(time()))

    async def add(self, records: Iterable[Record]) -> None:
        await asyncio.to_thread(self._add, records)

    def _add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._write(frame(record))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)

    async def finish(self, end: Record) -> None:
        await asyncio.to_thread(self._finish, end)

    def _finish(self, end: Record) -> None:
        """The file is on the disk before it is renamed."""
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

    async def abandon(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._beside.unlink()
