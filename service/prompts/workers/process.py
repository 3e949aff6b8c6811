"""A process that works for the service, and is killed on timeout."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress

from service.prompts.workers.serving import ANSWER, ERROR, READY, REQUEST

_WORKER = "import sys; sys.path[:] = {path!r}; from {module} import main; main()"
_KEPT_VARIABLES = ("TZ", "LD_LIBRARY_PATH", "VLLM_SYSTEM_START_DATE")
_SET_VARIABLES = {
    # Each thread reserves memory, which is limited.
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "2",
}
START_SECONDS = 10.0
_PIECE_BYTES = 1 << 16


class WorkFailed(Exception):
    """A job failed; the text is the reason, such as "it takes too much memory"."""


class WorkerLost(WorkFailed):
    """The process died, so another attempt may succeed."""


class WorkerTimedOut(WorkerLost):
    """The job took too long, and its process was killed."""


class WorkerProcess:
    """One process, started on first use and after each kill. For one thread at a time."""

    def __init__(self, module: str) -> None:
        """`module` has a function `main` that calls `serve`."""
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._in_flight: bytes | None = None
        """The job that the process works on, or whose answer has not been read."""
        self._unsent = b""
        """The rest of its request."""

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended, and not by `close`."""
        return self._process is not None and self._process.poll() is not None

    def run(self, job: bytes, seconds: float, max_bytes: int) -> bytes:
        """Returns the answer to a job; raises WorkFailed, or OSError if no process can be started. Blocks."""
        try:
            if self._process is None or self.is_dead:
                self.close()
                self._process = _start(self._module)
                _await_ready(self._process)
            return self._ask(self._process, job, seconds, max_bytes)
        except TimeoutError:
            self.close()
            raise WorkerTimedOut(f"it takes longer than {seconds:g} s") from None
        except (BrokenPipeError, EOFError, ValueError):
            self.close()
            raise WorkerLost("it crashes the process that works on it") from None
        except OSError:
            self.close()
            raise

    def kill(self) -> None:
        """Kills the process, from any thread. A `run` in flight fails; `close` must still be called."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Kills the process and frees its pipes."""
        process, self._process = self._process, None
        self._in_flight, self._unsent = None, b""
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None  # noqa: S101 - both are PIPE
            pipe.close()
        process.wait()

    def run_soon(self, job: bytes, seconds: float, soon: float, max_bytes: int) -> bytes | None:
        """As `run`, but None if no process runs, or none answers within `soon` seconds; `run` then gets a later answer.

        `job` is so short that most pipes take it, and the answer, as a whole.
        """
        process = self._process
        if process is None or self.is_dead or self._in_flight is not None:
            return None
        assert process.stdin is not None and process.stdout is not None  # noqa: S101
        self._in_flight, self._unsent = job, REQUEST.pack(seconds, len(job)) + job
        with suppress(BlockingIOError):
            self._unsent = self._unsent[os.write(process.stdin.fileno(), self._unsent) :]
        if self._unsent:  # a user with many pipes gets small ones
            return None
        try:
            _wait(process.stdout.fileno(), select.POLLIN, time.monotonic() + soon)
        except TimeoutError:
            return None
        return self._receive(process, time.monotonic() + seconds, max_bytes)

    def _ask(self, process: subprocess.Popen[bytes], job: bytes, seconds: float, max_bytes: int) -> bytes:
        deadline = time.monotonic() + seconds
        if self._in_flight is not None:
            self._send(process, deadline)
            if self._in_flight == job:
                return self._receive(process, deadline, max_bytes)
            with suppress(WorkFailed):  # nobody waits for it any longer
                self._receive(process, deadline, max_bytes)
        self._in_flight, self._unsent = job, REQUEST.pack(seconds, len(job)) + job
        self._send(process, deadline)
        return self._receive(process, deadline, max_bytes)

    def _send(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        assert process.stdin is not None  # noqa: S101
        _write(process.stdin.fileno(), self._unsent, deadline)
        self._unsent = b""

    def _receive(self, process: subprocess.Popen[bytes], deadline: float, max_bytes: int) -> bytes:
        assert process.stdout is not None  # noqa: S101
        answers = process.stdout.fileno()
        kind, size = ANSWER.unpack(_read(answers, ANSWER.size, deadline))
        if size > max_bytes:
            raise ValueError("the answer exceeds its limit")
        answer = _read(answers, size, deadline)
        self._in_flight = None
        if kind == ERROR:
            raise WorkFailed(answer.decode("utf-8", "surrogatepass"))
        return answer


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    """Writes all data; raises TimeoutError, or BrokenPipeError if the process is gone."""
    left = memoryview(data)
    while left:
        _wait(descriptor, select.POLLOUT, deadline)
        left = left[os.write(descriptor, left[:_PIECE_BYTES]) :]


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    """Reads exactly `size` bytes; raises TimeoutError, or EOFError if the process is gone."""
    data = bytearray()
    while len(data) < size:
        _wait(descriptor, select.POLLIN, deadline)
        piece = os.read(descriptor, min(size - len(data), _PIECE_BYTES))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError


def _start(module: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-I", "-c", _WORKER.format(path=sys.path, module=module)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_SET_VARIABLES | {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        bufsize=0,
        # Ctrl+C must reach only the service, which stops its processes itself.
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101
    os.set_blocking(process.stdin.fileno(), False)
    return process


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None  # noqa: S101 - it is PIPE
    try:
        _read(process.stdout.fileno(), len(READY), time.monotonic() + START_SECONDS)
    except (TimeoutError, EOFError):
        raise OSError("a new process does not answer") from None
