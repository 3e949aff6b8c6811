"""A listening Unix socket at a path: HTTP for routers on the same machine."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_BACKLOG: Final = 1024
_MODE: Final = 0o660
"""The service's user and group may connect."""


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Listens at a path, without blocking; removes the path afterwards.

    A socket that a former process left is replaced. Raises OSError, also if another process listens there.
    """
    _remove_left(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        try:
            listening.bind(os.fspath(path))
        except OSError as error:
            if error.errno is None:  # Python checks the length itself
                raise OSError(errno.ENAMETOOLONG, "the path of a socket has up to 107 bytes") from error
            raise
        made = path.stat()
        try:
            path.chmod(_MODE)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
            yield listening
        finally:
            with suppress(OSError):
                if os.path.samestat(path.stat(), made):
                    path.unlink()


def _remove_left(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "it exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
