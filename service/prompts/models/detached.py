"""Blocking work in daemon threads, which do not keep the process from exiting, unlike those of `asyncio.to_thread`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")


async def run_detached(work: Callable[[], _T]) -> _T:
    """Runs `work` in its own thread and returns its result. Cancelling the caller leaves the thread running.

    For work that waits for the network. Not for long native calls: they would return after interpreter shutdown.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        set_outcome: Callable[[Any], None] = future.set_result
        outcome: Any
        try:
            outcome = work()
        except Exception as error:
            set_outcome, outcome = future.set_exception, error
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            loop.call_soon_threadsafe(settle, set_outcome, outcome)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return await future
