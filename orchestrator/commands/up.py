"""`kvcache up`, step by step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing

from orchestrator.commands.build_view import building
from orchestrator.commands.down import GRACE_SECONDS, refuse_if_foreign, remove
from orchestrator.console import Console
from orchestrator.errors import BuildFailed, Problem
from orchestrator.health import answers, backoff, url
from orchestrator.host.ownership import Owner
from orchestrator.host.ports import is_free, listener
from orchestrator.host.signals import ShutdownRequested, Signals
from orchestrator.host.state import claim, forget_service
from orchestrator.image import image_build, is_up_to_date, recipe
from orchestrator.launch import Launch
from orchestrator.readiness import ReadinessWatch
from orchestrator.runtimes.base import OWNER_LABEL, ContainerRuntime, LogQuery, RuntimeKind, Service
from orchestrator.runtimes.discovery import choose
from orchestrator.workload import ports, prepare, service_address

_ENDPOINTS = (
    ("/score", "Score prompts using KV-cache (original)"),
    ("/score_completions", "Score chat completions with template rendering"),
    ("/v1/chat/completions", "Full chat completions with template processing"),
)
_LINES_OF_A_DEAD_SERVICE = 20
_WATCH_SECONDS = 1.0
_LOADING_SECONDS = 2.0  # in which a model that is at hand is loaded
_HEALTH_SECONDS = 30.0
_LOG_SECONDS = 2.0


def up(launch: Launch, console: Console, while_up: Callable[[ContainerRuntime], None] | None = None) -> None:
    """Starts the service and, unless detached, stays until Ctrl+C or SIGTERM. Raises Problem; nothing is left then.

    With `while_up` it stays only until that returns.
    """
    begun = time.monotonic()
    with Signals() as signals:
        try:
            choice = choose(launch.runtime)
            with closing(choice.runtime) as runtime:
                console.step("Starting kvcache")
                console.step(f"Running on host - orchestrating {runtime.description} ({choice.reason})")
                _UpRun(launch, runtime, console, signals, begun).run(while_up)
        except ShutdownRequested:  # before there was anything to clean up
            console.step("Received shutdown signal")


class _UpRun:
    """One `up` on one runtime."""

    def __init__(
        self, launch: Launch, runtime: ContainerRuntime, console: Console, signals: Signals, begun: float
    ) -> None:
        self._launch = launch
        self._runtime = runtime
        self._console = console
        self._signals = signals
        self._begun = begun
        self._address = service_address(launch, runtime)
        self._readiness = ReadinessWatch(console, self._address, launch.port)
        self._started = False
        self._grace = 0.0  # until it is ready it has nothing to finish, and may not heed a signal yet
        self._noun = runtime.kind.noun

    def run(self, while_up: Callable[[ContainerRuntime], None] | None) -> None:
        stays = False
        try:
            with claim(self._runtime.kind, self._launch.name):
                self._clean_up()
                self._check_ports()
                self._build()
                self._start()
            self._wait()
            self._tell()
            if self._launch.detach:
                stays = True
                return
            if while_up is not None:
                while_up(self._runtime)
                return
            self._console.step("Press Ctrl+C to stop")
            self._watch()
        except ShutdownRequested:
            self._signals.disarm()
            self._console.step("Received shutdown signal")
            self._console.step("Shutting down...")
        finally:
            self._signals.disarm()
            if not stays and self._started:
                self._remove()

    def _clean_up(self) -> None:
        launch = self._launch
        if self._runtime.kind is RuntimeKind.PROCESS and (launch.cpus or launch.memory):
            self._console.warn("--cpus and --memory have no effect on a child process.", "Use a container runtime.")
        self._console.step(f"Cleaning up any existing {self._noun}...")
        there = self._runtime.find(launch.name)
        if there is None:
            return
        refuse_if_foreign(there)
        if there.running and not _is_orphan(there):
            raise Problem(
                f"The service {launch.name} is already up on {self._runtime.kind}.",
                f"Stop it (kvcache down --name {launch.name}), or choose another --name and --port.",
            )
        remove(self._runtime, launch.name)

    def _check_ports(self) -> None:
        launch = self._launch
        if self._runtime.machine:
            return
        wanted = [launch.port] if self._runtime.kind is RuntimeKind.PROCESS else ports(launch)
        for port in wanted:
            if not is_free(launch.publish_address, port):
                holder = self._runtime.holder_of_port(port) or listener(port)
                raise Problem(
                    f"Port {port} of {launch.publish_address} is taken by {holder or 'another user'}.",
                    f"Stop it, or choose another port: kvcache up --port {port + 1}",
                )

    def _build(self) -> None:
        images = self._runtime.images
        launch = self._launch
        if images is None:
            return
        if launch.build is False:
            if images.labels(launch.image) is None:
                raise Problem(
                    f"There is no image {launch.image}, and --no-build forbids to make it.", "Leave out --no-build."
                )
            self._console.step(f"Using image {launch.image} as it is (--no-build)")
            return
        wanted = recipe(launch, os.environ)
        if launch.build is None and is_up_to_date(images, launch.image, wanted):
            self._console.step(f"Image {launch.image} is up to date, build skipped")
            return
        with building(self._console, launch.image, wanted.steps) as view:
            try:
                with closing(images.build(image_build(launch, wanted))) as output:
                    for line in output:
                        view.said(line)
                        self._signals.check()
            except BuildFailed as failure:
                what, remedy = failure.what, failure.remedy
                if view.fetches_base:
                    what = f"The base image {launch.base_image} is not to be had. {what}"
                    remedy = "Name one that is, with Python 3.11 or newer: --base-image; kvcache doctor checks it."
                raise BuildFailed(what, remedy, view.last_lines) from failure
        view.done(launch.image)

    def _start(self) -> None:
        self._console.step(f"Starting {self._noun}...")
        with self._signals.deferred():
            self._started = True
            try:
                self._runtime.start(prepare(self._launch, self._runtime))
            except Problem:
                # Nothing of ours is left then, and what has the name by now may be somebody else's.
                self._started = False
                forget_service(self._runtime.kind, self._launch.name)
                raise

    def _wait(self) -> None:
        launch, runtime = self._launch, self._runtime
        self._console.step(f"Waiting for {self._noun} to be ready...")
        deadline = time.monotonic() + launch.timeout
        for pause in backoff():
            if answers(self._address, launch.port):
                runtime.confirm_health(launch.name)
                break
            service = runtime.find(launch.name)
            if service is None or not service.running:
                raise self._died(service, "while it started")
            if time.monotonic() > deadline:
                raise Problem(
                    f"The service is not healthy after {launch.timeout:g} s.",
                    "Its last lines are above; give it longer with --timeout, or look at kvcache doctor.",
                    self._last_lines(),
                )
            self._signals.check()
            time.sleep(pause)
        self._grace = GRACE_SECONDS
        self._console.step(f"{self._noun.capitalize()} is ready!")

    def _tell(self) -> None:
        seconds = time.monotonic() - self._begun
        self._console.step(f"🚀 kvcache is ready! ({self._runtime.kind}, {seconds:.1f} s)")
        self._console.step("Available endpoints:")
        for path, meaning in _ENDPOINTS:
            self._console.step(f"  - POST {url(self._address, self._launch.port)}{path} - {meaning}")
        deadline = time.monotonic() + _LOADING_SECONDS
        for pause in backoff():
            if self._readiness.missing() == () or time.monotonic() > deadline:
                break
            self._signals.check()
            time.sleep(pause)
        self._readiness.tell()

    def _watch(self) -> None:
        """Until a signal; raises Problem when the service ends by itself."""
        name = self._launch.name
        next_check = time.monotonic() + _HEALTH_SECONDS
        while True:
            time.sleep(_WATCH_SECONDS)
            self._signals.check()
            service = self._runtime.find(name)
            if service is None or service.exit_code == 0:
                self._console.step("The service was stopped by someone else")
                return
            if not service.running:
                raise self._died(service, "while it ran")
            if self._readiness.last_reported or time.monotonic() > next_check:
                self._readiness.tell()
            if time.monotonic() > next_check:
                self._runtime.confirm_health(name)
                next_check = time.monotonic() + _HEALTH_SECONDS

    def _died(self, service: Service | None, when: str) -> Problem:
        if service is None or service.exit_code == 0:
            return Problem(f"The service was stopped by someone else {when}.", "Start it again: kvcache up")
        code = "an unknown code" if service.exit_code is None else f"code {service.exit_code}"
        return Problem(
            f"The service ended {when}, with {code}.",
            "Its last lines are above; kvcache doctor looks for usual causes.",
            self._last_lines(),
        )

    def _last_lines(self) -> tuple[str, ...]:
        query = LogQuery(tail=_LINES_OF_A_DEAD_SERVICE)
        deadline = time.monotonic() + _LOG_SECONDS
        try:
            # Podman may say that a container has ended before its last lines are written down.
            while not (lines := tuple(self._runtime.logs(self._launch.name, query))) and time.monotonic() < deadline:
                time.sleep(0.1)
        except Problem:  # somebody removed it meanwhile
            return ()
        return lines

    def _remove(self) -> None:
        name = self._launch.name
        try:
            with self._signals.armed():
                self._runtime.stop(name, self._grace)
        except ShutdownRequested:
            self._console.step("Received a second shutdown signal, not waiting")
        remove(self._runtime, name)
        self._console.step(f"{self._noun.capitalize()} removed successfully")


def _is_orphan(service: Service) -> bool:
    """Whether the `up` that a running service belongs to is gone; a detached one belongs to nobody and is none."""
    text = service.labels.get(OWNER_LABEL)
    owner = Owner.parse(text) if text else None
    return owner is not None and not owner.lives
