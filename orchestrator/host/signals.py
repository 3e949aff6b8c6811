"""Turns Ctrl+C, SIGTERM and SIGHUP (a closed terminal) into one exception, raised at safe moments."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from types import FrameType, TracebackType
from typing import NoReturn, Self


class ShutdownRequested(BaseException):
    """The user or the system asked this process to stop. Not an Exception, so that no library swallows it."""


class _Mode(Enum):
    """The effect of the next signal."""

    RAISE = auto()
    WAIT = auto()
    """The next signal is remembered, and the one after it raises."""
    COUNT = auto()


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into ShutdownRequested in the main thread, which ends any blocking call there.

    It is raised once. Later signals are only counted, so that they do not interrupt cleanup, except inside `armed`.
    Must be entered in the main thread.
    """

    def __init__(self) -> None:
        self._received = 0
        self._answered = 0
        self._mode = _Mode.RAISE

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        # `nohup` sets SIGHUP to ignored, and it must stay ignored.
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
        """Raises ShutdownRequested if a signal came but its exception was swallowed (in a destructor, for example)."""
        if self._received > self._answered:
            self._raise()

    def disarm(self) -> None:
        """Starts the cleanup: signals are only counted from here on."""
        self._answered = self._received
        self._mode = _Mode.COUNT

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Runs a short call that must not be interrupted: a first signal waits for its end, a second one does not."""
        self._mode = _Mode.WAIT
        yield
        self._mode = _Mode.RAISE
        self.check()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Runs a part of the cleanup that a user may skip: the next signal raises here."""
        self.check()
        self._mode = _Mode.RAISE
        try:
            yield
        finally:
            self._mode = _Mode.COUNT
