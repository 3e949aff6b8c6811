"""Podman, through the podman package (podman-py 5.8 against Podman 4.3 to 5)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Self

import requests
from podman.errors import APIError

from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtimes.base import (
    NAME_LABEL,
    Containers,
    Health,
    Images,
    LogQuery,
    Networks,
    RuntimeKind,
    Service,
    Workload,
)
from orchestrator.runtimes.inspection import service_from, wait_gone
from orchestrator.runtimes.podman_api import PodmanApi, is_gone, podman_errors
from orchestrator.runtimes.podman_containers import PodmanContainers
from orchestrator.runtimes.podman_creation import creation
from orchestrator.runtimes.podman_images import PodmanImages
from orchestrator.runtimes.podman_leftovers import broken_images, dead_builders
from orchestrator.runtimes.podman_networks import PodmanNetworks
from orchestrator.runtimes.podman_service import PodmanService
from orchestrator.runtimes.remote import remote_machine
from orchestrator.runtimes.streams import frames, lines, tool_lines

_CALL_SECONDS = 60.0
_NETWORK = "podman"
_ROOT_SOCKET = "http+unix:///run/podman/podman.sock"  # podman-py would search XDG_RUNTIME_DIR for root, too


class Podman:
    """Implements runtimes.base.ContainerRuntime."""

    kind = RuntimeKind.PODMAN

    def __init__(self, api: PodmanApi, service: PodmanService | None) -> None:
        self._service = service
        self._client = api.client(timeout=_CALL_SECONDS)
        self._stream_client = api.client()
        self.images: Images = PodmanImages(self._client, api, service)
        self.networks: Networks = PodmanNetworks(self._client)
        self.containers: Containers = PodmanContainers(self._client, api)
        self._address = str(api)
        shown = "an API of our own" if service else self._address
        self.description = f"Podman {self._client.version()['Version']} at {shown}"

    @classmethod
    def connect(cls) -> Self:
        """The Podman of CONTAINER_HOST, else a listening API socket, else an API process of our own.

        Raises RuntimeUnavailable.
        """
        if named := os.environ.get("CONTAINER_HOST"):
            api = PodmanApi(named)
            with podman_errors(f"connect to CONTAINER_HOST={named}"):
                api.check()
                return cls(api, None)
        try:
            api = PodmanApi(_ROOT_SOCKET if os.geteuid() == 0 else None)
            api.check()
            return cls(api, None)
        except (APIError, requests.RequestException, OSError):
            pass
        if shutil.which("podman") is None:
            raise RuntimeUnavailable(
                "Podman is not here: there is neither a `podman` command nor an API socket.",
                "Install Podman (https://podman.io/docs/installation).",
                installed=False,
            )
        service = PodmanService()
        try:
            with podman_errors("connect to the API that was started"):
                return cls(PodmanApi(service.url), service)
        except BaseException:
            service.close()
            raise

    @property
    def machine(self) -> str | None:
        return remote_machine(self._address)

    @cached_property
    def rootless(self) -> bool:
        with podman_errors("describe itself"):
            return bool(self._client.info()["host"]["security"]["rootless"])

    def services(self) -> Iterator[Service]:
        with podman_errors("list containers"):
            names = [found.name for found in self._client.containers.list(all=True, filters={"label": NAME_LABEL})]
        for name in names:
            if service := self.find(name):
                yield service

    def find(self, name: str) -> Service | None:
        with podman_errors("inspect a container"):
            try:
                return service_from(self._client.containers.get(name).attrs, self.kind)
            except APIError as error:
                if is_gone(error):
                    return None
                raise

    def holder_of_port(self, port: int) -> str | None:
        with podman_errors("list containers"):
            for container in self._client.containers.list():
                if any(port == mapping.get("host_port") for mapping in container.attrs.get("Ports") or ()):
                    return str(container.name)
        return None

    def refusal_of_address(self, address: str) -> str | None:
        # A rootless Podman forwards with its own process; a rootful one with rules for its network's IP version.
        if ":" not in address or self.rootless:
            return None
        with podman_errors("inspect its network"):
            if self._client.networks.get(_NETWORK).attrs.get("ipv6_enabled"):
                return None
        return f"{address} is not reached through Podman's network {_NETWORK!r}, which has no IPv6."

    def start(self, workload: Workload) -> None:
        with podman_errors("start the container"):
            container = self._client.containers.create(**creation(workload))
            try:
                container.start()
            except BaseException:
                container.remove(force=True, v=True)
                raise

    def confirm_health(self, name: str) -> Health:
        # Each run updates the state that `podman ps` shows; without systemd nothing else updates it.
        with podman_errors("check the service's health"):
            response = self._client.api.get(f"/containers/{name}/healthcheck")
            # It may have stopped or disappeared in the meantime.
            return Health(response.json()["Status"]) if response.ok else Health.UNKNOWN

    def logs(self, name: str, query: LogQuery) -> Iterator[str]:
        with podman_errors("read the log"):
            container = self._stream_client.containers.get(name)
            since = None if query.since is None else int(query.since)
            chunks = container.logs(stream=True, follow=query.follow, tail=query.tail, since=since)
            yield from lines(chunks)

    def run_tool(self, name: str, arguments: Sequence[str]) -> Generator[str, None, None]:
        # podman-py's own exec_run does not return the exec id, which is needed to read the exit code.
        wanted = {"AttachStdout": True, "AttachStderr": True, "Cmd": ["python", "-m", "service", *arguments]}
        api = self._stream_client.api
        with podman_errors("run a command in the container"):
            created = api.post(f"/containers/{name}/exec", data=json.dumps(wanted))
            created.raise_for_status()
            identity = created.json()["Id"]
            started = api.post(f"/exec/{identity}/start", data=json.dumps({"Detach": False, "Tty": False}), stream=True)
            started.raise_for_status()
            with closing(started):
                yield from tool_lines(arguments, frames(started.raw.read), lambda: self._exit_code(identity))

    def _exit_code(self, identity: str) -> int:
        response = self._client.api.get(f"/exec/{identity}/json")
        response.raise_for_status()
        return int(response.json()["ExitCode"])

    def resume(self, name: str) -> None:
        with podman_errors("start the container"):
            self._client.containers.get(name).start()

    def stop(self, name: str, grace: float) -> None:
        if (service := self.find(name)) and service.ours and service.running:
            with podman_errors("stop the container"):
                try:
                    container = self._client.containers.get(name)
                    if service.paused:
                        container.unpause()  # otherwise it could not handle the signal
                    container.stop(timeout=round(grace), ignore=True)
                except APIError:
                    if (now := self.find(name)) and now.running:  # another process may have stopped it
                        raise

    def remove(self, name: str) -> None:
        if (service := self.find(name)) and service.ours:
            with podman_errors("remove the container"):
                try:
                    container = self._client.containers.get(name)
                    with suppress(APIError):  # it may have exited on its own
                        # Podman 4.3 forgets a container that is being stopped, and leaves its process running.
                        container.kill("SIGKILL")
                    container.remove(force=True, v=True)
                except APIError:
                    if not wait_gone(lambda: self.find(name) is None):  # another process may be removing it
                        raise

    def remove_leftovers(self) -> None:
        if self.machine:
            return
        with podman_errors("remove what is left of builds that were killed"):
            storage = Path(self._client.info()["store"]["graphRoot"])
            for builder in dead_builders(storage):
                self._client.api.delete(f"/containers/{builder}", params={"force": True}).raise_for_status()
            for image in broken_images(storage):
                self._client.api.delete(f"/images/{image}", params={"force": True}).raise_for_status()

    def revive(self) -> None:
        if self._service:
            self._service.revive()

    def close(self) -> None:
        self._client.close()
        self._stream_client.close()
        if self._service:
            self._service.close()
