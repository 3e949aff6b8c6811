"""Ctrl+C and SIGTERM, turned into one exception at the moments when it does no harm."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn, Self


class ShutdownRequested(BaseException):
    """The user or the system wants us to end. Not an Exception: no library on the way may swallow it."""


class Signals:
    """Turns SIGINT and SIGTERM into ShutdownRequested in the main thread, which ends any blocking call there.

    It is raised once; what comes later is only counted, so that cleaning up is not torn apart, but for the moments that
    `armed` marks. Must be entered in the main thread.
    """

    def __init__(self) -> None:
        self._received = 0
        self._answered = 0
        self._swallow: int | None = 0

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if self._swallow is None:
            return
        if self._swallow > 0:
            self._swallow -= 1
            return
        self._raise()

    def _raise(self) -> NoReturn:
        self._swallow = None
        raise ShutdownRequested

    def check(self) -> None:
        """Raises ShutdownRequested if a signal came and its exception got lost (in a destructor, say)."""
        if self._received > self._answered:
            self._raise()

    def disarm(self) -> None:
        """Cleaning up begins: a signal from here on is only counted."""
        self._answered = self._received
        self._swallow = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A short call that must not be torn apart: a first signal waits until it is over, a second one does not."""
        self._swallow = 1
        yield
        self._swallow = 0
        self.check()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """A part of cleaning up that an impatient user may cut short: the next signal raises here."""
        self.check()
        self._swallow = 0
        try:
            yield
        finally:
            self._swallow = None
