"""Scheduled faults of a simulated engine: each applies to the next generation requests, in order."""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["status", "reset", "hang", "die", "stall", "abort", "engine_dead"]


class Fault(msgspec.Struct, frozen=True):
    """One fault, for the next `times` requests.

    Before any answer: `status` (an HTTP error with `status` and `retry_after` seconds), `reset` (the connection is
    reset), `hang` (no answer at all). After `after` generated tokens: `die` (the connection is reset), `stall` (no
    further token), `abort` (ends as complete with finish_reason "abort", as vLLM does on SIGTERM), `engine_dead` (an
    error event and a complete end; from then on /health is 503).
    """

    kind: Kind
    times: int = 1
    status: int = 503
    retry_after: int | None = None
    after: int = 3


class Faults:
    """The pending faults."""

    def __init__(self) -> None:
        self._coming: deque[Fault] = deque()

    def add(self, fault: Fault) -> None:
        self._coming.extend([fault] * fault.times)

    def clear(self) -> None:
        self._coming.clear()

    def take(self) -> Fault | None:
        return self._coming.popleft() if self._coming else None

    def __len__(self) -> int:
        return len(self._coming)
