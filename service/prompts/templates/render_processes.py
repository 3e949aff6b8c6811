"""Renders chat templates in a process of its own, which is killed when it takes too long."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time

from service.prompts.templates.render_worker import ANSWER, ERROR, READY, REQUEST, Job, packed

_WORKER = "import sys; sys.path[:] = {path!r}; from service.prompts.templates.render_worker import main; main()"
_KEPT_VARIABLES = ("TZ", "LD_LIBRARY_PATH")
START_SECONDS = 10.0
_PIECE_BYTES = 1 << 16
_CHARACTER_BYTES = 4


class RenderFailed(Exception):
    """A template cannot be rendered; the text says why, and completes a sentence about the template."""


class RenderLost(RenderFailed):
    """The process did not come to an end by itself; another time it may."""


class RenderProcess:
    """One process, started when it is first needed and again after it was killed. For one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job) -> str:
        """Gives the answer to a job; raises RenderFailed, or OSError when no process can be started. Blocks."""
        try:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._process = _start()
                _await_ready(self._process)
            return self._ask(self._process, job, time.monotonic() + job.seconds)
        except TimeoutError:
            self.close()
            raise RenderLost(f"it takes longer than {job.seconds:g} s") from None
        except (BrokenPipeError, EOFError, ValueError):
            self.close()
            raise RenderLost("it brings down the process that renders it") from None
        except OSError:
            self.close()
            raise

    def kill(self) -> None:
        """Ends the process, whatever it does; for any thread. `run` then fails, and `close` is still to be called."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process and lets go of it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None  # noqa: S101 - both were asked for
            pipe.close()
        process.wait()

    def _ask(self, process: subprocess.Popen[bytes], job: Job, deadline: float) -> str:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101
        try:
            request = packed(job)
        except RecursionError:
            raise RenderFailed("what it is given goes too deep") from None
        answers = process.stdout.fileno()
        _write(process.stdin.fileno(), REQUEST.pack(len(request)) + request, deadline)
        kind, size = ANSWER.unpack(_read(answers, ANSWER.size, deadline))
        if size > _CHARACTER_BYTES * job.most:
            raise ValueError("the answer is longer than a good one can be")
        text = _read(answers, size, deadline).decode("utf-8", "surrogatepass")
        if kind == ERROR:
            raise RenderFailed(text)
        return text


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    """Writes all of it; raises TimeoutError, or BrokenPipeError when nobody reads."""
    left = memoryview(data)
    while left:
        _wait(descriptor, select.POLLOUT, deadline)
        left = left[os.write(descriptor, left[:_PIECE_BYTES]) :]


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    """Reads that many bytes; raises TimeoutError, or EOFError when there are no more."""
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


def _start() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own code
        [sys.executable, "-I", "-c", _WORKER.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        bufsize=0,
        # An interrupt at the terminal is for the service, which ends its processes itself.
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101
    os.set_blocking(process.stdin.fileno(), False)
    return process


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    try:
        _read(process.stdout.fileno(), len(READY), time.monotonic() + START_SECONDS)
    except (TimeoutError, EOFError):
        raise OSError("a new process does not answer") from None
