"""One container or process of a deployment, while `up` starts and watches it."""

from __future__ import annotations

import time

from orchestrator.console import Console
from orchestrator.errors import Problem
from orchestrator.health import Answer, backoff, url, who_answers
from orchestrator.host.ports import next_free
from orchestrator.host.signals import Signals
from orchestrator.launch import Launch
from orchestrator.readiness import ReadinessWatch
from orchestrator.runtimes.base import ContainerRuntime, Health, LogQuery, RuntimeKind
from orchestrator.runtimes.ending import ending
from orchestrator.workload import service_address

_LINES_OF_A_DEAD_SERVICE = 20
_LOG_SECONDS = 2.0
_CONFIRM_SECONDS = 4.0


class Replica:
    """`title` is the subject of messages about it."""

    def __init__(
        self, launch: Launch, title: str, runtime: ContainerRuntime, console: Console, signals: Signals
    ) -> None:
        self.launch = launch
        self.name = launch.name
        self.title = title
        self._runtime = runtime
        self._signals = signals
        self._address = service_address(launch, runtime)
        name = "" if self.is_alone else launch.name
        self.readiness = ReadinessWatch(console, self._address, launch.port, tls=launch.tls, name=name)

    @property
    def is_alone(self) -> bool:
        """Whether it is all of its deployment."""
        return not self.launch.deployment

    @property
    def runtime(self) -> RuntimeKind:
        return self._runtime.kind

    @property
    def url(self) -> str:
        return url(self._address, self.launch.port, tls=self.launch.tls)

    def wait(self, deadline: float) -> None:
        """Returns when it answers; `deadline` is a value of `time.monotonic`. Raises Problem."""
        for pause in backoff():
            answer = self.health()
            if answer is Answer.OURS:
                self._wait_for_runtime()
                return
            service = self._runtime.find(self.name)
            if service is None or service.exit_code == 0:
                raise Problem(
                    f"{self.title} was stopped by someone else while it started.", "Start it again: kvcache up"
                )
            if not service.running:
                raise ending(service, self.title, "while it started", self.last_lines())
            if time.monotonic() > deadline:
                raise self._not_healthy(answer)
            self._signals.check()
            time.sleep(pause)

    def _wait_for_runtime(self) -> None:
        """Waits a few seconds at most for the runtime's health check, which may run rarely or never."""
        deadline = time.monotonic() + _CONFIRM_SECONDS
        while self._runtime.confirm_health(self.name) is Health.STARTING and time.monotonic() < deadline:
            self._signals.check()
            time.sleep(0.1)

    def _not_healthy(self, answer: Answer) -> Problem:
        launch = self.launch
        if answer is Answer.OTHER:
            return Problem(
                f"Port {launch.port} of {launch.publish_address} is answered by another program than the service.",
                f"Stop it, or choose another port: kvcache up --port {next_free(launch.publish_address, launch.port)}",
                self.last_lines(),
            )
        return Problem(
            f"{self.title} is not healthy after {launch.timeout:g} s.",
            "Its last lines are above; give it longer with --timeout, or look at kvcache doctor.",
            self.last_lines(),
        )

    def health(self) -> Answer:
        return who_answers(self._address, self.launch.port, self.launch.instance, tls=self.launch.tls)

    def confirm_health(self) -> None:
        """Lets the runtime run its own health check."""
        self._runtime.confirm_health(self.name)

    def last_lines(self) -> tuple[str, ...]:
        """The end of its log."""
        query = LogQuery(tail=_LINES_OF_A_DEAD_SERVICE)
        deadline = time.monotonic() + _LOG_SECONDS
        try:
            # Podman may report the exit of a container before its last log lines are written.
            while not (lines := tuple(self._runtime.logs(self.name, query))) and time.monotonic() < deadline:
                time.sleep(0.1)
        except Problem:  # removed by someone else in the meantime
            return ()
        return lines
