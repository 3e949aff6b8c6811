"""One process that several threads ask in turn, and the event loop for what is soon answered."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from threading import Lock

from service.prompts.workers.process import WorkerLost, WorkerProcess, WorkerTimedOut, WorkFailed

_SOON_SECONDS = 0.001
"""That the event loop may wait; to ask a thread instead takes it a tenth of that."""

_PAUSE_SECONDS = 5.0
"""After which a process that died twice is started again."""


class SharedProcess:
    """A WorkerProcess that is started again when it dies. Thread-safe."""

    def __init__(self, module: str, max_answer_bytes: int) -> None:
        """`module` is that of the process, as of WorkerProcess."""
        self._process = WorkerProcess(module)
        self._max_answer_bytes = max_answer_bytes
        self._lock = Lock()
        self._closed = False
        self._refuses_until = 0.0

    def run(self, job: bytes, seconds: float) -> bytes:
        """Returns the answer to a job; raises WorkFailed, OSError if no process can be started, or CancelledError."""
        try:
            return self._run(job, seconds)
        except WorkerTimedOut:
            raise
        except WorkerLost:  # for want of memory, perhaps, which others have freed since
            try:
                return self._run(job, seconds)
            except WorkerLost:
                self._refuses_until = time.monotonic() + _PAUSE_SECONDS
                raise

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

    def kill(self) -> None:
        """Ends the process and the jobs in flight; `close` must still be called."""
        self._closed = True
        self._process.kill()

    def close(self) -> None:
        """Ends the process and the jobs in flight. Blocks until it has ended."""
        self.kill()
        with self._lock:
            self._process.close()

    def _run(self, job: bytes, seconds: float) -> bytes:
        with self._lock:
            if self._closed:
                raise CancelledError
            if time.monotonic() < self._refuses_until:
                raise WorkerLost("its process has died twice")
            try:
                return self._process.run(job, seconds, self._max_answer_bytes)
            except WorkerLost:
                if self._closed:
                    raise CancelledError from None
                raise
