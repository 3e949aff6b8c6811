"""Watches running services: reports when one exits, hangs or is paused, and when their runtime does not answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.commands.replica import Replica
from orchestrator.console import Console
from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.health import Answer
from orchestrator.host.signals import Signals
from orchestrator.runtimes.base import ContainerRuntime, Service
from orchestrator.runtimes.ending import ending

_LOOK_SECONDS = 1.0
_HEALTH_SECONDS = 5.0
_SILENT_HEALTH_CHECKS = 2
_RUNTIME_AWAY_SECONDS = 60.0


class RuntimeGone(Problem):
    """The runtime did not come back; its containers keep running."""


class Watch:
    """Watches the replicas of a deployment and their Valkey, named `store`, if they have one."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        replicas: Sequence[Replica],
        store: str | None,
        console: Console,
        signals: Signals,
    ) -> None:
        self._runtime = runtime
        self._replicas = [_Watched(replica, console) for replica in replicas]
        self._store = store
        self._store_runs = True
        self._console = console
        self._signals = signals

    def until_it_ends(self) -> None:
        """Returns when someone else stopped all replicas. Raises Problem if all have ended, and one on its own."""
        next_check = time.monotonic() + _HEALTH_SECONDS
        while any(replica.runs for replica in self._replicas):
            time.sleep(_LOOK_SECONDS)
            self._signals.check()
            checks = time.monotonic() > next_check
            if checks:
                next_check = time.monotonic() + _HEALTH_SECONDS
            before = [replica for replica in self._replicas if replica.runs]
            for replica in self._replicas:
                replica.look(self._find(replica.name), with_health=checks)
            self._tell_ends([replica for replica in before if not replica.runs])
            if self._store is not None:
                self._look_at_store(self._store)
        if failures := [replica.failure for replica in self._replicas if replica.failure is not None]:
            raise failures[-1]

    def _tell_ends(self, ended: Sequence[_Watched]) -> None:
        goes_on = any(replica.runs for replica in self._replicas)
        for replica in ended:
            if replica.failure is None:
                self._console.step(f"{replica.title} was stopped by someone else")
            elif goes_on:
                self._console.warn(
                    replica.failure.what,
                    f"The others go on. See why: kvcache logs {replica.name}; start it again: "
                    f"kvcache start {replica.name}",
                )

    def _look_at_store(self, name: str) -> None:
        service = self._find(name)
        runs = service is not None and service.running
        if self._store_runs and not runs and any(replica.runs for replica in self._replicas):
            self._console.warn(
                f"The Valkey {name} has ended. The replicas go on, each with what it knows.",
                f"Start it again: kvcache start {name}",
            )
        if runs and not self._store_runs:
            self._console.step(f"The Valkey {name} runs again")
        self._store_runs = runs

    def _find(self, name: str) -> Service | None:
        """The runtime's view of a service; waits for a runtime that does not answer. Raises RuntimeGone."""
        lost_at = None
        while True:
            try:
                service = self._runtime.find(name)
            except RuntimeUnavailable as error:
                lost_at = self._wait_for_runtime(error, lost_at)
            else:
                if lost_at is not None:
                    self._console.step(f"{self._runtime.kind.capitalize()} answers again")
                return service

    def _wait_for_runtime(self, error: RuntimeUnavailable, lost_at: float | None) -> float:
        kind = self._runtime.kind
        goes_on = "The container goes on" if len(self._replicas) == 1 else "The containers go on"
        if lost_at is None:
            lost_at = time.monotonic()
            self._console.warn(error.what, f"{goes_on}; trying again.")
        if time.monotonic() - lost_at > _RUNTIME_AWAY_SECONDS:
            names = " ".join((*(replica.name for replica in self._replicas), *([self._store] if self._store else ())))
            raise RuntimeGone(
                f"{kind.capitalize()} has not answered for {_RUNTIME_AWAY_SECONDS:g} s. {goes_on}.",
                f"Stop with: {kind} rm -f {names}",
            )
        time.sleep(_LOOK_SECONDS)
        self._signals.check()
        try:
            self._runtime.revive()
        except RuntimeUnavailable:
            self._signals.check()
        return lost_at


class _Watched:
    """The reports about a replica so far."""

    def __init__(self, replica: Replica, console: Console) -> None:
        self.name = replica.name
        self.title = replica.title
        self.runs = True
        self.failure: Problem | None = None
        """Why it ended, if nobody stopped it."""
        self._replica = replica
        self._console = console
        self._silent = 0
        self._paused = False

    def look(self, service: Service | None, *, with_health: bool) -> None:
        """Says what changed; an end is only noted."""
        if service is None or service.exit_code == 0:
            self.runs, self.failure = False, None
            return
        if not service.running:
            if self.runs:
                self.failure = ending(service, self.title, "while it ran", self._replica.last_lines())
            self.runs = False
            return
        if not self.runs:
            self._console.step(f"{self.title} runs again")
            self.runs, self.failure = True, None
        self._note_pause(service)
        if self._replica.readiness.last_reported:
            self._replica.readiness.tell()
        if with_health and not service.paused:
            self._check_health()

    def _note_pause(self, service: Service) -> None:
        if service.paused and not self._paused:
            self._console.warn(
                f"{self._container} is paused.", f"Go on with it: {service.runtime} unpause {service.name}"
            )
        if self._paused and not service.paused:
            self._console.step(f"{self._container} goes on")
        self._paused = service.paused

    @property
    def _container(self) -> str:
        return "The container" if self._replica.is_alone else f"The container {self.name}"

    def _check_health(self) -> None:
        answer = self._replica.health()
        if answer is Answer.OURS:
            if self._silent >= _SILENT_HEALTH_CHECKS:
                self._console.step(f"{self.title} answers again")
            self._silent = 0
            self._replica.readiness.tell()
            self._replica.confirm_health()
            return
        self._silent += 1
        if self._silent == _SILENT_HEALTH_CHECKS:
            what = "does not answer" if answer is Answer.NOBODY else "is not what answers on its port"
            self._console.warn(
                f"{self.title} {what} (GET /health, for {_HEALTH_SECONDS * self._silent:g} s).",
                f"See what it does: kvcache logs --name {self.name}; {self._restart}.",
            )

    @property
    def _restart(self) -> str:
        return (
            "Ctrl+C and kvcache up start it anew"
            if self._replica.is_alone
            else f"{self._replica.runtime} restart {self.name} starts it anew"
        )
