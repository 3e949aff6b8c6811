"""Keeps a file equal to the engines that run in containers beside a service, until the service is removed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.engines.recognition import Engine, NotUsable, addresses, engine_in, published
from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.runtimes.base import INSTANCE_LABEL, Container, ContainerRuntime, Containers, Service
from service.contract.containers import FILE, HOST_NAME, ContainerPods, write_container_pods
from service.contract.pods import PodEntry

_BEAT_SECONDS = 0.5
_LIST_SECONDS = 5.0
"""Between two listings while the runtime tells what changes; without that, each beat lists."""
_AWAY_SECONDS = 600.0


class Following:
    """Follows the containers of one runtime for one service, into a file in `folder`."""

    def __init__(self, runtime: ContainerRuntime, containers: Containers, service: Service, folder: Path) -> None:
        self._runtime = runtime
        self._containers = containers
        self._service = service
        self._name = service.name
        self._folder = folder
        self._changed = threading.Event()
        self._hears = False
        self._beat = time.time_ns()
        """Never one that another writer had."""
        self._refused: dict[str, str] = {}
        """Why the service could not join a network."""

    def until_the_service_is_gone(self, check: Callable[[], None], tell: Callable[[str], None]) -> None:
        """Calls `check` between two looks, which may raise; `tell` gets a line for each change.

        Raises Problem if the runtime does not answer for ten minutes.
        """
        threading.Thread(target=self._listen, daemon=True, name="events of the runtime").start()
        told, pods = "", ContainerPods(self._name, self._beat)
        next_look, answered = 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            if self._changed.is_set() or now >= next_look or not self._hears:
                self._changed.clear()
                try:
                    found = self._look()
                except Problem as error:
                    if now - answered > _AWAY_SECONDS:
                        raise
                    found = ContainerPods(self._name, 0, pods.pods, problem=error.what)
                    self._revive()
                else:
                    answered = now
                if found is None:
                    return
                pods, next_look = found, now + _LIST_SECONDS
                if (line := _line(pods)) != told:
                    tell(line)
                    told = line
            self._write(pods)
            check()
            self._changed.wait(_BEAT_SECONDS)

    def _look(self) -> ContainerPods | None:
        """The running containers; None if the service is gone."""
        there = self._runtime.find(self._name)
        if there is None or there.labels.get(INSTANCE_LABEL) != self._service.labels.get(INSTANCE_LABEL):
            return None
        running = list(self._containers.running())
        service = next((one for one in running if one.name == self._name), None)
        if service is None:  # it is stopped, or paused
            return ContainerPods(self._name, 0, problem="the service does not run")
        pods, left_out = [], []
        for container in sorted(running, key=lambda one: one.name):
            if container.ours:
                continue
            try:
                engine = engine_in(container)
                if engine is not None:
                    pods.append(self._entry(engine, service))
            except (NotUsable, ValueError) as error:
                left_out.append(str(error))
        return ContainerPods(self._name, 0, list(map(str, pods)), left_out="; ".join(left_out) or None)

    def _entry(self, engine: Engine, service: Container) -> PodEntry:
        """The engine as the service reaches it, which joins a network of the engine if there is no other way."""
        if (address := next(addresses(engine, service), None)) is not None:
            return engine.entry(address)
        for network, address in engine.container.networks.items():
            if address and self._joined(network):
                return engine.entry(address)
        if (outside := published(engine)) is not None:
            return outside.entry(HOST_NAME)
        why = "; ".join(self._refused[network] for network in engine.container.networks if network in self._refused)
        raise NotUsable(
            f"{engine.container.name} is left out: the service reaches none of its networks, and its port "
            f"{engine.port} is not published beyond loopback{f' ({why})' if why else ''}"
        )

    def _joined(self, network: str) -> bool:
        if network in self._refused:
            return False
        try:
            self._containers.join(self._name, network)
        except RuntimeUnavailable:
            raise
        except Problem as problem:
            self._refused[network] = problem.what
            return False
        return True

    def _listen(self) -> None:
        """Notes each change that the runtime tells; in a thread of its own, with a connection of its own."""
        while True:
            try:
                for _ in self._containers.changes():
                    self._hears = True
                    self._changed.set()
            except Problem:
                pass
            self._hears = False
            self._changed.set()
            time.sleep(_BEAT_SECONDS)

    def _revive(self) -> None:
        try:
            self._runtime.revive()
        except RuntimeUnavailable:
            return

    def _write(self, pods: ContainerPods) -> None:
        """Replaces the file as a whole. A folder that is gone belonged to a service that is."""
        self._beat += 1
        text = write_container_pods(ContainerPods(pods.service, self._beat, pods.pods, pods.problem, pods.left_out))
        new = self._folder / f".{FILE}.{os.getpid()}"
        try:
            new.write_text(text, encoding="utf-8")
            new.chmod(0o644)
            new.replace(self._folder / FILE)
        except FileNotFoundError:
            return


def _line(pods: ContainerPods) -> str:
    if pods.problem is not None:
        return pods.problem
    named = ", ".join(f"{entry.name} at {entry.url}" for entry in pods.entries) or "no engine runs in a container"
    return f"{named}; {pods.left_out}" if pods.left_out else named
