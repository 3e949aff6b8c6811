"""Makes the GNU C library give freed memory back to the system; does nothing with another one."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
LARGE_BYTES: Final = 1 << 20
_KEPT_BYTES: Final = 4 << 20


def give_back_large_blocks() -> None:
    """Keeps blocks of a megabyte or more out of the heap.

    By default, freeing a large block raises the size from which blocks are mapped on their own, up to 32 MiB
    (mallopt(3), M_MMAP_THRESHOLD). Later texts of several megabytes then lie in the heap between small objects that
    stay, such as cached tokens, and their memory is never returned.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed_pages() -> None:
    """Gives freed pages of all heaps back to the system, also those between blocks in use. Call it on a thread.

    It takes a millisecond, and 0.1 to 0.2 ms for each megabyte that it gives back; other threads wait for most of that
    time when they allocate (malloc_trim(3)).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
