"""Watches a running service: reports when it exits, hangs or is paused, and when its runtime does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.console import Console
from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.health import Answer
from orchestrator.host.signals import Signals
from orchestrator.readiness import ReadinessWatch
from orchestrator.runtimes.base import ContainerRuntime, Service
from orchestrator.runtimes.ending import ending

_LOOK_SECONDS = 1.0
_HEALTH_SECONDS = 5.0
_SILENT_HEALTH_CHECKS = 2
_RUNTIME_AWAY_SECONDS = 60.0


class RuntimeGone(Problem):
    """The runtime did not come back; its containers keep running."""


class Watch:
    def __init__(
        self,
        *,
        runtime: ContainerRuntime,
        name: str,
        console: Console,
        signals: Signals,
        readiness: ReadinessWatch,
        health: Callable[[], Answer],
        last_lines: Callable[[], tuple[str, ...]],
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._console = console
        self._signals = signals
        self._readiness = readiness
        self._health = health
        self._last_lines = last_lines
        self._silent = 0
        self._paused = False

    def until_it_ends(self) -> None:
        """Returns when someone else stopped the service. Raises Problem if it exited on its own."""
        next_check = time.monotonic() + _HEALTH_SECONDS
        while True:
            time.sleep(_LOOK_SECONDS)
            self._signals.check()
            service = self._find()
            if service is None or service.exit_code == 0:
                self._console.step("The service was stopped by someone else")
                return
            if not service.running:
                raise ending(service, "while it ran", self._last_lines())
            self._note_pause(service)
            if self._readiness.last_reported:
                self._readiness.tell()
            if time.monotonic() > next_check and not service.paused:
                self._check_health()
                next_check = time.monotonic() + _HEALTH_SECONDS

    def _find(self) -> Service | None:
        """The runtime's view of the service; waits for a runtime that does not answer. Raises RuntimeGone."""
        lost_at = None
        while True:
            try:
                service = self._runtime.find(self._name)
            except RuntimeUnavailable as error:
                lost_at = self._wait_for_runtime(error, lost_at)
            else:
                if lost_at is not None:
                    self._console.step(f"{self._runtime.kind.capitalize()} answers again")
                return service

    def _wait_for_runtime(self, error: RuntimeUnavailable, lost_at: float | None) -> float:
        kind = self._runtime.kind
        if lost_at is None:
            lost_at = time.monotonic()
            self._console.warn(error.what, "The container goes on; trying again.")
        if time.monotonic() - lost_at > _RUNTIME_AWAY_SECONDS:
            raise RuntimeGone(
                f"{kind.capitalize()} has not answered for {_RUNTIME_AWAY_SECONDS:g} s. The container goes on.",
                f"Stop it with: {kind} rm -f {self._name}",
            )
        time.sleep(_LOOK_SECONDS)
        self._signals.check()
        try:
            self._runtime.revive()
        except RuntimeUnavailable:
            self._signals.check()
        return lost_at

    def _note_pause(self, service: Service) -> None:
        if service.paused and not self._paused:
            self._console.warn("The container is paused.", f"Go on with it: {service.runtime} unpause {service.name}")
        if self._paused and not service.paused:
            self._console.step("The container goes on")
        self._paused = service.paused

    def _check_health(self) -> None:
        answer = self._health()
        if answer is Answer.OURS:
            if self._silent >= _SILENT_HEALTH_CHECKS:
                self._console.step("The service answers again")
            self._silent = 0
            self._readiness.tell()
            self._runtime.confirm_health(self._name)
            return
        self._silent += 1
        if self._silent == _SILENT_HEALTH_CHECKS:
            what = "does not answer" if answer is Answer.NOBODY else "is not what answers on its port"
            self._console.warn(
                f"The service {what} (GET /health, for {_HEALTH_SECONDS * self._silent:g} s).",
                f"See what it does: kvcache logs --name {self._name}; Ctrl+C and kvcache up start it anew.",
            )
