"""A few processes that work on what strangers chose."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.prompts.workers.process import START_SECONDS, WorkerProcess

_T = TypeVar("_T")

_MAX_QUEUED = 3
"""Maximum wait, as a number of jobs that use their whole timeout."""


class WorkersBusy(Exception):
    """No process can take the job at the moment; the text has the reason."""


class WorkerPool:
    """Runs jobs, one at a time in each process. Call its methods on the event loop's thread."""

    def __init__(self, module: str, processes: int) -> None:
        """`module` is that of the processes, as of WorkerProcess."""
        self._module = module
        self._own = threading.local()
        self._processes: list[WorkerProcess] = []
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix=module.rpartition(".")[2])

    async def run(self, work: Callable[[WorkerProcess], _T], seconds: float) -> _T:
        """Returns the result of `work`, which asks the process that it is given, in another thread.

        `seconds` is the maximum duration. Raises WorkersBusy, and what `work` raises except OSError.
        """
        done = asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._process()))
        try:
            return await asyncio.wait_for(done, _MAX_QUEUED * seconds + START_SECONDS)
        except TimeoutError:
            raise WorkersBusy("all processes for it are busy") from None
        except OSError as error:
            raise WorkersBusy(f"no process can be started for it ({error})") from None

    async def close(self) -> None:
        """Stops all jobs and processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.close()

    def _process(self) -> WorkerProcess:
        """The process of the calling thread."""
        process: WorkerProcess | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = WorkerProcess(self._module)
            self._processes.append(process)
        return process
