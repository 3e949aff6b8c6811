"""Makes the C library give back the memory of large texts and bodies when they are freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
LARGE_BYTES: Final = 1 << 20
_KEPT_BYTES: Final = 4 << 20


def give_back_large_blocks() -> None:
    """Keeps blocks of a megabyte or more out of the heap of the GNU C library; does nothing with another one.

    By default, freeing a large block raises the size from which blocks are mapped on their own, up to 32 MiB
    (mallopt(3), M_MMAP_THRESHOLD). Later texts of several megabytes then lie in the heap between small objects that
    stay, such as cached tokens, and their memory is never returned.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
