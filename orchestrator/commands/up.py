"""`kvcache up`, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from orchestrator.cautions import cautions, is_host_renamed
from orchestrator.commands.build import ensure_image, ensure_valkey
from orchestrator.commands.discover import discover_in_background
from orchestrator.commands.down import refuse_if_foreign, remove, remove_deployed
from orchestrator.commands.replica import Replica
from orchestrator.commands.watch import RuntimeGone, Watch
from orchestrator.console import Console
from orchestrator.deployment import check_runtime, deployment_of
from orchestrator.errors import Problem
from orchestrator.health import backoff
from orchestrator.host.models_folder import objections, parts
from orchestrator.host.ownership import Owner
from orchestrator.host.ports import next_free
from orchestrator.host.signals import ShutdownRequested, Signals
from orchestrator.host.state import claim, claim_ports, forget_service
from orchestrator.launch import Launch
from orchestrator.publishing import all_ports, check_address, taken_ports
from orchestrator.runtimes.base import OWNER_LABEL, ContainerRuntime, RuntimeKind, Service, Workload
from orchestrator.runtimes.deployed import Deployed, deployed
from orchestrator.runtimes.discovery import choose
from orchestrator.store import network_labels, prepare_store
from orchestrator.sweep import sweep
from orchestrator.systemd import systemd_unit
from orchestrator.workload import prepare
from service.contract.containers import HOST_NAME

_ENDPOINTS = (
    ("/score", "Score prompts using KV-cache (original)"),
    ("/score_completions", "Score chat completions with template rendering"),
)
_CHAT = "/v1/chat/completions"
_LOADING_SECONDS = 2.0  # covers loading a model from disk


def up(launch: Launch, console: Console, while_up: Callable[[ContainerRuntime], None] | None = None) -> None:
    """Starts the replicas and, unless detached, stays until a signal. On Problem, nothing is left behind.

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
        check_runtime(launch, runtime.kind)
        self._launch = launch
        self._runtime = runtime
        self._console = console
        self._signals = signals
        self._begun = begun
        self._deployment = deployment = deployment_of(launch)
        self._replicas = [
            Replica(replica, deployment.title(replica), runtime, console, signals) for replica in deployment.replicas
        ]
        self._started: list[str] = []
        self._networks: list[str] = []
        self._grace = 0.0  # before readiness it has no requests to finish, and may not handle signals yet
        self._noun = runtime.kind.noun
        self._nouns = self._noun if len(deployment.replicas) == 1 else f"{self._noun}s"

    def run(self, while_up: Callable[[ContainerRuntime], None] | None) -> None:
        launch, runtime = self._launch, self._runtime
        with self._removed_at_the_end():
            check_address(launch, runtime)
            with self._claimed():
                self._clean_up()
                self._check_ports()
                if runtime.images is not None:
                    ensure_image(launch, runtime.images, self._console, self._signals)
                    if self._deployment.store:
                        ensure_valkey(launch, runtime.images, self._console, self._signals)
                self._start()
                self._wait()
            self._tell()
            if launch.detach:
                self._started.clear()  # they keep running
                self._networks.clear()
            elif while_up is not None:
                while_up(runtime)
            else:
                self._console.step("Press Ctrl+C to stop")
                store = self._deployment.store
                name = store.name if store else None
                watch = Watch(runtime, self._replicas, name, self._console, self._signals)
                watch.until_it_ends()

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Locks the names and ports."""
        kind, address = self._runtime.kind, self._launch.publish_address
        wanted = [port.number for port in all_ports(self._deployment.replicas, kind)]
        with ExitStack() as stack:
            for name in sorted({self._deployment.name, *self._deployment.names}):
                stack.enter_context(claim(kind, name))
            stack.enter_context(claim_ports(wanted, lambda port: next_free(address, port)))
            yield

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
            self._started.clear()
            self._networks.clear()
            raise
        except Problem as problem:
            failure = problem
            raise
        finally:
            self._signals.disarm()
            if self._started or self._networks:
                self._remove(failure)

    def _clean_up(self) -> None:
        launch, runtime = self._launch, self._runtime
        for caution in cautions(launch, runtime):
            self._console.warn(*caution)
        if is_host_renamed(launch, runtime):
            self._console.step(f"localhost in --pod is this machine, which the container reaches as {HOST_NAME}")
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
        self._console.step(f"Cleaning up any existing {self._nouns}...")
        sweep(runtime, self._console)
        self._remove_existing()

    def _remove_existing(self) -> None:
        """Removes containers of this deployment that do not run. Raises Problem if one is used or not ours."""
        runtime, launch = self._runtime, self._launch
        there = next((one for one in deployed(runtime) if one.name == launch.name), Deployed(launch.name, ()))
        for name in {launch.name, *self._deployment.names} - {service.name for service in there.services}:
            if (other := runtime.find(name)) is not None:
                refuse_if_foreign(other)
                raise Problem(f"The name {name} is taken by the service {other.deployment}.", "Choose another --name.")
        for service in there.services:
            if service.paused:
                raise Problem(
                    f"The service {service.name} is there and paused on {runtime.kind}.",
                    f"{runtime.kind} unpause {service.name} goes on with it; "
                    f"kvcache down --name {launch.name} removes it.",
                )
            if service.running and not _is_orphan(service):
                raise Problem(
                    f"The service {launch.name} is already up on {runtime.kind}.",
                    f"Stop it (kvcache down --name {launch.name}), or choose another --name and --port.",
                )
        remove_deployed(runtime, there)

    def _check_ports(self) -> None:
        for port, holder in taken_ports(self._deployment.replicas, self._runtime):
            raise Problem(f"Port {port} is taken by {holder}.", port.remedy())

    def _start(self) -> None:
        launch, runtime, store = self._launch, self._runtime, self._deployment.store
        count = len(self._replicas)
        several = f"{count} {self._nouns}{' and their Valkey' if store else ''}"
        self._console.step(f"Starting {several if count > 1 else self._noun}...")
        if store is not None:
            self._create_network(store.network)
            self._start_one(store.name, lambda: prepare_store(launch, store, runtime))
        for replica in self._deployment.replicas:
            self._start_one(replica.name, partial(prepare, replica, runtime))
            if launch.follows_containers:
                discover_in_background(replica.name, runtime.kind)

    def _create_network(self, name: str) -> None:
        assert self._runtime.networks is not None  # noqa: S101 - a child process has no store
        with self._signals.deferred():
            self._networks.append(name)
            self._runtime.networks.create(name, network_labels(self._launch))

    def _start_one(self, name: str, workload: Callable[[], Workload]) -> None:
        with self._signals.deferred():
            self._started.append(name)
            try:
                self._runtime.start(workload())
            except Problem:
                # Our container is gone, and another process may use the name already.
                self._started.remove(name)
                forget_service(self._runtime.kind, name)
                raise

    def _wait(self) -> None:
        self._console.step(f"Waiting for {self._nouns} to be ready...")
        deadline = time.monotonic() + self._launch.timeout
        for replica in self._replicas:
            replica.wait(deadline)
        self._grace = float(self._launch.stop_seconds)
        verb = "is" if len(self._replicas) == 1 else "are"
        self._console.step(f"{self._nouns.capitalize()} {verb} ready!")

    def _tell(self) -> None:
        deadline = time.monotonic() + _LOADING_SECONDS
        for pause in backoff():
            watches = [replica.readiness for replica in self._replicas]
            settled = all(watch.missing() == () and not watch.shared_state_down for watch in watches)
            if settled or time.monotonic() > deadline:
                break
            self._signals.check()
            time.sleep(pause)
        for replica in self._replicas:
            replica.readiness.tell()
        seconds = time.monotonic() - self._begun
        lacks = [reason for replica in self._replicas for reason in replica.readiness.last_reported]
        state = f"kvcache is up, but {lacks[0]}" if lacks else "🚀 kvcache is ready!"
        self._console.step(f"{state} ({self._runtime.kind}, {seconds:.1f} s)")
        if down := next((said for one in self._replicas if (said := one.readiness.shared_state_down)), None):
            self._console.warn(
                f"The shared state is {down}",
                "Until it answers, each replica knows only what it sees itself. Start the Valkey, or correct "
                "SHARED_STATE; `kvcache doctor` tries its address, `kvcache status` shows its state.",
            )
        if len(self._replicas) > 1:
            self._console.step("Replicas, each of which answers any request:")
            for replica in self._replicas:
                self._console.step(f"  - {replica.name}: {replica.url}")
        self._console.step("Available endpoints:")
        base = self._replicas[0].url
        for path, meaning in _ENDPOINTS:
            self._console.step(f"  - POST {base}{path} - {meaning}")
        if self._launch.forwards:
            self._console.step(f"  - POST {base}{_CHAT} - Forwarded to the pods, as is all of {base}/v1")
        else:
            self._console.step(f"  - POST {base}{_CHAT} - Full chat completions with template processing")
        self._console.step(f"Page for browsers: {base}/ui")
        if self._launch.forwards:
            self._console.step(f"Gateway for OpenAI clients: {base}/v1")

    def _remove(self, failure: Problem | None) -> None:
        """Stops and removes all that was started. After a failure, a problem here is only a warning."""
        runtime = self._runtime
        try:
            try:
                with self._signals.armed():
                    for name in reversed(self._started):
                        runtime.stop(name, self._grace)
            except ShutdownRequested:
                self._console.step("Received a second shutdown signal, not waiting")
            for name in reversed(self._started):
                remove(runtime, name)
            if runtime.networks is not None:
                for network in self._networks:
                    runtime.networks.remove(network)
        except Problem as problem:
            if failure is None:
                raise
            self._console.warn(problem.what, f"Remove it yourself: kvcache down --name {self._launch.name}")
            return
        self._console.step(f"{self._nouns.capitalize()} removed successfully")


def _is_orphan(service: Service) -> bool:
    """Whether the `up` process that owns a running service has exited; a detached service has no owner."""
    text = service.labels.get(OWNER_LABEL)
    owner = Owner.parse(text) if text else None
    return owner is not None and not owner.lives
