"""One process that several threads ask in turn, and the event loop for what is soon answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from threading import Lock

from service.prompts.workers.process import WorkerLost, WorkerProcess, WorkerTimedOut, WorkFailed

logger = logging.getLogger(__name__)

_SOON_SECONDS = 0.001
"""That the event loop may wait; to ask a thread instead takes it a tenth of that."""

_PAUSE_SECONDS = 5.0
"""After which a process that died twice, or could not be started, is started again."""

_KILL_SECONDS = 0.1
"""Between kills of a process that ends: one that was just being started got none."""

_SILENT_SECONDS = 60.0
"""Between two equal warnings."""


class _Refused(WorkerLost):
    """The process is not started at the moment."""


class SharedProcess:
    """A WorkerProcess that is started again when it dies. Thread-safe."""

    def __init__(
        self, module: str, max_answer_bytes: int, title: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`module` is that of the process, as of WorkerProcess; `title` its name in the log."""
        self._process = WorkerProcess(module)
        self._max_answer_bytes = max_answer_bytes
        self._title = title
        self._clock = clock
        self._lock = Lock()
        self._closed = False
        self._refuses_until = 0.0
        self._refuses_because = ""
        self._warned: dict[str, float] = {}

    def run(self, job: bytes, seconds: float) -> bytes:
        """Returns the answer to a job; raises WorkFailed, OSError if no process can be started, or CancelledError."""
        try:
            return self._run(job, seconds)
        except (WorkerTimedOut, _Refused):
            raise
        except WorkerLost:  # for want of memory, perhaps, which others have freed since
            return self._run(job, seconds, is_last=True)

    def run_soon(self, job: bytes, seconds: float) -> bytes | None:
        """As `run`, for the event loop; None if it would have to wait, or if `run` fails."""
        if self._closed or not self._lock.acquire(blocking=False):
            return None
        try:
            return self._process.run_soon(job, seconds, _SOON_SECONDS, self._max_answer_bytes)
        except (WorkFailed, OSError, EOFError, ValueError):
            return None
        finally:
            self._lock.release()

    def warn(self, what: str) -> None:
        """Logs a sentence about the process, unless it did so within a minute."""
        now = self._clock()
        if now >= self._warned.get(what, now):
            self._warned[what] = now + _SILENT_SECONDS
            logger.warning("%s: %s", self._title, what)

    def kill(self) -> None:
        """Ends the process and the jobs in flight; `close` must still be called."""
        self._closed = True
        self._process.kill()

    def close(self) -> None:
        """Ends the process and the jobs in flight. Blocks until it has ended."""
        self.kill()
        while not self._lock.acquire(timeout=_KILL_SECONDS):
            self._process.kill()
        self._process.close()
        self._lock.release()

    def _run(self, job: bytes, seconds: float, *, is_last: bool = False) -> bytes:
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._clock() < self._refuses_until:
                raise _Refused(self._refuses_because)
            if self._process.is_dead:
                self.warn("its process has died")
            try:
                return self._process.run(job, seconds, self._max_answer_bytes)
            except (WorkerLost, OSError) as error:
                if self._closed:
                    raise CancelledError from None
                if isinstance(error, WorkerTimedOut):
                    self.warn("its process did not answer in time and was killed")
                elif isinstance(error, WorkerLost):
                    self.warn("its process has died")
                if isinstance(error, OSError):
                    self._pause(f"no process can be started for it ({error})")
                elif is_last:
                    self._pause("its process has died twice")
                raise

    def _pause(self, reason: str) -> None:
        self._refuses_until = self._clock() + _PAUSE_SECONDS
        self._refuses_because = reason
        self.warn(f"{reason}; requests that need it are refused for {_PAUSE_SECONDS:g} s")
