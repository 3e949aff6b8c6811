"""`kvcache up`, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from orchestrator.cautions import cautions
from orchestrator.commands.build import ensure_image
from orchestrator.commands.down import GRACE_SECONDS, refuse_if_foreign, remove
from orchestrator.commands.watch import RuntimeGone, Watch
from orchestrator.console import Console
from orchestrator.errors import Problem
from orchestrator.health import Answer, backoff, url, who_answers
from orchestrator.host.models_folder import objections, parts
from orchestrator.host.ownership import Owner
from orchestrator.host.ports import next_free
from orchestrator.host.signals import ShutdownRequested, Signals
from orchestrator.host.state import claim, claim_ports, forget_service
from orchestrator.launch import Launch
from orchestrator.publishing import check_address, ports, taken_ports
from orchestrator.readiness import ReadinessWatch
from orchestrator.runtimes.base import OWNER_LABEL, ContainerRuntime, Health, LogQuery, RuntimeKind, Service
from orchestrator.runtimes.discovery import choose
from orchestrator.runtimes.ending import ending
from orchestrator.sweep import sweep
from orchestrator.systemd import systemd_unit
from orchestrator.workload import prepare, service_address

_ENDPOINTS = (
    ("/score", "Score prompts using KV-cache (original)"),
    ("/score_completions", "Score chat completions with template rendering"),
)
_CHAT = "/v1/chat/completions"
_LINES_OF_A_DEAD_SERVICE = 20
_LOADING_SECONDS = 2.0  # covers loading a model from disk
_LOG_SECONDS = 2.0
_CONFIRM_SECONDS = 4.0


def up(launch: Launch, console: Console, while_up: Callable[[ContainerRuntime], None] | None = None) -> None:
    """Starts the service and, unless detached, stays until a signal. On Problem, nothing is left behind.

    With `while_up`, stays only until that function returns.
    """
    begun = time.monotonic()
    with Signals() as signals:
        try:
            choice = choose(launch.runtime)
            with closing(choice.runtime) as runtime:
                console.step("Starting kvcache")
                console.step(f"Running on host - orchestrating {runtime.description} ({choice.reason})")
                _UpRun(launch, runtime, console, signals, begun).run(while_up)
        except ShutdownRequested:  # nothing to clean up yet
            console.step("Received shutdown signal")


class _UpRun:
    def __init__(
        self, launch: Launch, runtime: ContainerRuntime, console: Console, signals: Signals, begun: float
    ) -> None:
        self._launch = launch
        self._runtime = runtime
        self._console = console
        self._signals = signals
        self._begun = begun
        self._address = service_address(launch, runtime)
        self._readiness = ReadinessWatch(console, self._address, launch.port, tls=launch.tls)
        self._started = False
        self._grace = 0.0  # before readiness it has no requests to finish, and may not handle signals yet
        self._noun = runtime.kind.noun

    def run(self, while_up: Callable[[ContainerRuntime], None] | None) -> None:
        launch, kind = self._launch, self._runtime.kind
        with self._removed_at_the_end():
            check_address(launch, self._runtime)
            wanted = [port.number for port in ports(launch, kind)]
            with claim(kind, launch.name), claim_ports(wanted, lambda port: next_free(launch.publish_address, port)):
                self._clean_up()
                self._check_ports()
                if self._runtime.images is not None:
                    ensure_image(launch, self._runtime.images, self._console, self._signals)
                self._start()
                self._wait()
            self._tell()
            if launch.detach:
                self._started = False  # the service keeps running
            elif while_up is not None:
                while_up(self._runtime)
            else:
                self._console.step("Press Ctrl+C to stop")
                self._watch()

    @contextmanager
    def _removed_at_the_end(self) -> Iterator[None]:
        failure: Problem | None = None
        try:
            yield
        except ShutdownRequested:
            self._signals.disarm()
            self._console.step("Received shutdown signal")
            self._console.step("Shutting down...")
        except RuntimeGone:
            self._started = False
            raise
        except Problem as problem:
            failure = problem
            raise
        finally:
            self._signals.disarm()
            if self._started:
                self._remove(failure)

    def _clean_up(self) -> None:
        launch, runtime = self._launch, self._runtime
        for caution in cautions(launch, runtime):
            self._console.warn(*caution)
        if launch.models_dir:
            for objection in objections(launch.models_dir):
                self._console.warn(objection.what, objection.remedy)
            if runtime.images is not None and (mounted := len(parts(launch.models_dir))) > 1:
                self._console.step(
                    f"Links in {launch.models_dir} lead out of it, so what it holds is mounted in {mounted} parts; "
                    "models that are added later need another `kvcache up`"
                )
        if runtime.kind is RuntimeKind.PROCESS and launch.restart != "no":
            raise Problem(
                "--restart: a child process is not started again by itself.",
                f"Save the unit above as ~/.config/systemd/user/{launch.name}.service, and run: "
                f"systemctl --user enable --now {launch.name}",
                systemd_unit(launch),
            )
        self._console.step(f"Cleaning up any existing {self._noun}...")
        sweep(runtime, self._console)
        there = runtime.find(launch.name)
        if there is None:
            return
        refuse_if_foreign(there)
        if there.paused:
            raise Problem(
                f"The service {launch.name} is there and paused on {runtime.kind}.",
                f"{runtime.kind} unpause {launch.name} goes on with it; kvcache down --name {launch.name} removes it.",
            )
        if there.running and not _is_orphan(there):
            raise Problem(
                f"The service {launch.name} is already up on {runtime.kind}.",
                f"Stop it (kvcache down --name {launch.name}), or choose another --name and --port.",
            )
        remove(runtime, launch.name)

    def _check_ports(self) -> None:
        for port, holder in taken_ports(self._launch, self._runtime):
            raise Problem(f"Port {port} is taken by {holder}.", port.remedy())

    def _start(self) -> None:
        self._console.step(f"Starting {self._noun}...")
        with self._signals.deferred():
            self._started = True
            try:
                self._runtime.start(prepare(self._launch, self._runtime))
            except Problem:
                # Our container is gone, and another process may use the name already.
                self._started = False
                forget_service(self._runtime.kind, self._launch.name)
                raise

    def _wait(self) -> None:
        launch, runtime = self._launch, self._runtime
        self._console.step(f"Waiting for {self._noun} to be ready...")
        deadline = time.monotonic() + launch.timeout
        for pause in backoff():
            answer = self._health()
            if answer is Answer.OURS:
                self._wait_for_runtime()
                break
            service = runtime.find(launch.name)
            if service is None or service.exit_code == 0:
                raise Problem("The service was stopped by someone else while it started.", "Start it again: kvcache up")
            if not service.running:
                raise ending(service, "while it started", self._last_lines())
            if time.monotonic() > deadline:
                raise self._not_healthy(answer)
            self._signals.check()
            time.sleep(pause)
        self._grace = GRACE_SECONDS
        self._console.step(f"{self._noun.capitalize()} is ready!")

    def _wait_for_runtime(self) -> None:
        """Waits a few seconds at most for the runtime's health check, which may run rarely or never."""
        deadline = time.monotonic() + _CONFIRM_SECONDS
        while self._runtime.confirm_health(self._launch.name) is Health.STARTING and time.monotonic() < deadline:
            self._signals.check()
            time.sleep(0.1)

    def _not_healthy(self, answer: Answer) -> Problem:
        launch = self._launch
        if answer is Answer.OTHER:
            return Problem(
                f"Port {launch.port} of {launch.publish_address} is answered by another program than the service.",
                f"Stop it, or choose another port: kvcache up --port {next_free(launch.publish_address, launch.port)}",
                self._last_lines(),
            )
        return Problem(
            f"The service is not healthy after {launch.timeout:g} s.",
            "Its last lines are above; give it longer with --timeout, or look at kvcache doctor.",
            self._last_lines(),
        )

    def _tell(self) -> None:
        deadline = time.monotonic() + _LOADING_SECONDS
        for pause in backoff():
            if self._readiness.missing() == () or time.monotonic() > deadline:
                break
            self._signals.check()
            time.sleep(pause)
        self._readiness.tell()
        seconds = time.monotonic() - self._begun
        base = url(self._address, self._launch.port, tls=self._launch.tls)
        lacks = self._readiness.last_reported
        state = f"kvcache is up, but {lacks[0]}" if lacks else "🚀 kvcache is ready!"
        self._console.step(f"{state} ({self._runtime.kind}, {seconds:.1f} s)")
        self._console.step("Available endpoints:")
        for path, meaning in _ENDPOINTS:
            self._console.step(f"  - POST {base}{path} - {meaning}")
        if self._launch.forwards:
            self._console.step(f"  - POST {base}{_CHAT} - Forwarded to the pods, as is all of {base}/v1")
        else:
            self._console.step(f"  - POST {base}{_CHAT} - Full chat completions with template processing")

    def _watch(self) -> None:
        Watch(
            runtime=self._runtime,
            name=self._launch.name,
            console=self._console,
            signals=self._signals,
            readiness=self._readiness,
            health=self._health,
            last_lines=self._last_lines,
        ).until_it_ends()

    def _health(self) -> Answer:
        return who_answers(self._address, self._launch.port, self._launch.instance, tls=self._launch.tls)

    def _last_lines(self) -> tuple[str, ...]:
        query = LogQuery(tail=_LINES_OF_A_DEAD_SERVICE)
        deadline = time.monotonic() + _LOG_SECONDS
        try:
            # Podman may report the exit of a container before its last log lines are written.
            while not (lines := tuple(self._runtime.logs(self._launch.name, query))) and time.monotonic() < deadline:
                time.sleep(0.1)
        except Problem:  # removed by someone else in the meantime
            return ()
        return lines

    def _remove(self, failure: Problem | None) -> None:
        """Stops and removes the service. After a failure, a problem here is only a warning."""
        name = self._launch.name
        try:
            try:
                with self._signals.armed():
                    self._runtime.stop(name, self._grace)
            except ShutdownRequested:
                self._console.step("Received a second shutdown signal, not waiting")
            remove(self._runtime, name)
        except Problem as problem:
            if failure is None:
                raise
            self._console.warn(problem.what, f"Remove it yourself: kvcache down --name {name}")
            return
        self._console.step(f"{self._noun.capitalize()} removed successfully")


def _is_orphan(service: Service) -> bool:
    """Whether the `up` process that owns a running service has exited; a detached service has no owner."""
    text = service.labels.get(OWNER_LABEL)
    owner = Owner.parse(text) if text else None
    return owner is not None and not owner.lives
