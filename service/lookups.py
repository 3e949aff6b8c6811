"""Lookups of names in threads of their own: one that hangs delays neither the others nor the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
FoundT = TypeVar("FoundT")
MAX_LOOKUPS = 256


class Lookups(Generic[KeyT, FoundT]):
    """Calls a function that may block, once at a time for each key, in daemon threads."""

    def __init__(self, call: Callable[[KeyT], FoundT]) -> None:
        self._call = call
        self._running: dict[KeyT, asyncio.Future[FoundT]] = {}

    async def find(self, key: KeyT) -> FoundT:
        """What the function returns. Raises what it raises, and OSError beside very many other lookups or threads."""
        future = self._running.get(key)
        if future is None:
            if len(self._running) >= MAX_LOOKUPS:
                raise OSError(f"{MAX_LOOKUPS} other names are being looked up")
            future = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may have left
            thread = threading.Thread(target=self._run, args=(key, future), name=f"resolver of {key}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system gives no more threads
                raise OSError(str(error)) from error
            self._running[key] = future
        return await asyncio.shield(future)

    def _run(self, key: KeyT, future: asyncio.Future[FoundT]) -> None:
        try:
            done: Callable[[], None] = partial(future.set_result, self._call(key))
        except Exception as error:
            done = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop may be closed already
            future.get_loop().call_soon_threadsafe(self._end, key, done)

    def _end(self, key: KeyT, done: Callable[[], None]) -> None:
        if not self._running.pop(key).done():
            done()
