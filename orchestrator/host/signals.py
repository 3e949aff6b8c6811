"""Ctrl+C, SIGTERM and SIGHUP (a closed terminal), turned into one exception at moments when it is safe to raise."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from types import FrameType, TracebackType
from typing import NoReturn, Self


class ShutdownRequested(BaseException):
    """The user or the system wants us to end. Not an Exception: no library on the way may swallow it."""


class _Mode(Enum):
    """The effect of the next signal."""

    RAISE = auto()
    WAIT = auto()
    """It is remembered, and the one after it raises."""
    COUNT = auto()


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into ShutdownRequested in the main thread, which ends any blocking call there.

    It is raised once. Later signals are only counted, so that they do not interrupt cleaning up, except where `armed`
    allows it. Must be entered in the main thread.
    """

    def __init__(self) -> None:
        self._received = 0
        self._answered = 0
        self._mode = _Mode.RAISE

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        # `nohup` has it ignored, and means it.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if self._mode is _Mode.RAISE:
            self._raise()
        if self._mode is _Mode.WAIT:
            self._mode = _Mode.RAISE

    def _raise(self) -> NoReturn:
        self._mode = _Mode.COUNT
        raise ShutdownRequested

    def check(self) -> None:
        """Raises ShutdownRequested if a signal came and its exception got lost (in a destructor, say)."""
        if self._received > self._answered:
            self._raise()

    def disarm(self) -> None:
        """Cleaning up begins: signals are only counted."""
        self._answered = self._received
        self._mode = _Mode.COUNT

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A short call that must not be interrupted: a first signal waits for its end, a second one does not."""
        self._mode = _Mode.WAIT
        yield
        self._mode = _Mode.RAISE
        self.check()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """A part of cleaning up that an impatient user may cut short: the next signal raises here."""
        self.check()
        self._mode = _Mode.RAISE
        try:
            yield
        finally:
            self._mode = _Mode.COUNT
