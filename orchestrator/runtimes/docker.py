"""Docker, through the docker package (docker-py 7.2 against dockerd 20.10 and later)."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import Healthcheck, LogConfig

from orchestrator.errors import RuntimeUnavailable, cause_of
from orchestrator.runtimes.base import (
    BUILD_STAGE,
    CONTENT_LABEL,
    NAME_LABEL,
    STAGE_LABEL,
    STAGES,
    Containers,
    Health,
    ImageBuild,
    Images,
    LogQuery,
    Mount,
    Networks,
    RuntimeKind,
    Service,
    Workload,
)
from orchestrator.runtimes.build_output import output_lines
from orchestrator.runtimes.docker_containers import DockerContainers
from orchestrator.runtimes.docker_errors import docker_errors
from orchestrator.runtimes.hardening import HEALTH_CHECK, LOG_BYTES, SECOND, docker_restrictions
from orchestrator.runtimes.inspection import refuse_network, service_from, wait_gone
from orchestrator.runtimes.remote import remote_machine
from orchestrator.runtimes.streams import lines, tool_lines
from service.contract.containers import HOST_NAME

_ANSWER_SECONDS = 3
_CALL_SECONDS = 60
_START_INTERVAL_SINCE = (1, 44)  # of the API: Docker 25
_BUILD_SECONDS = 3600  # maximum between two lines of a build's output


class Docker:
    """Implements runtimes.base.ContainerRuntime."""

    kind = RuntimeKind.DOCKER

    def __init__(self, client: docker.DockerClient, where: str) -> None:
        self._client = client
        self._where = where
        self.images: Images = DockerImages(client)
        self.networks: Networks = DockerNetworks(client)
        self.containers: Containers = DockerContainers(client)
        self.description = f"Docker {client.version()['Version']} at {where}"

    @classmethod
    def connect(cls) -> Self:
        """The Docker of DOCKER_HOST, else of DOCKER_CONTEXT or the current context. Raises RuntimeUnavailable."""
        where = _where()
        try:
            client = docker.DockerClient.from_env(timeout=_ANSWER_SECONDS, use_ssh_client=True)
            client.api.timeout = _CALL_SECONDS
            return cls(client, where)
        except (DockerException, requests.RequestException, OSError) as error:
            raise RuntimeUnavailable(
                f"Docker does not answer at {where}: {cause_of(error)}",
                _remedy(error),
                installed=_is_installed(where),
            ) from error
        except ImportError as error:
            raise RuntimeUnavailable(
                f"Docker cannot be reached at {where}: the Python package {error.name} is not installed.",
                f"Run: {sys.executable} -m pip install {error.name}",
            ) from error

    @property
    def machine(self) -> str | None:
        return remote_machine(self._where)

    @cached_property
    def rootless(self) -> bool:
        with docker_errors("describe itself"):
            return "name=rootless" in (self._client.info().get("SecurityOptions") or ())

    def services(self) -> Iterator[Service]:
        with docker_errors("list containers"):
            found = self._client.containers.list(all=True, filters={"label": NAME_LABEL}, ignore_removed=True)
        for container in found:
            yield service_from(container.attrs, self.kind)

    def find(self, name: str) -> Service | None:
        with docker_errors("inspect a container"):
            try:
                return service_from(self._client.containers.get(name).attrs, self.kind)
            except NotFound:
                return None

    def holder_of_port(self, port: int) -> str | None:
        with docker_errors("list containers"):
            for container in self._client.api.containers(filters={"publish": str(port)}):
                return str(container["Names"][0]).lstrip("/")
        return None

    def refusal_of_address(self, address: str) -> str | None:
        return None  # docker-proxy listens on any address

    def start(self, workload: Workload) -> None:
        with docker_errors("start the container"):
            container = self._client.containers.create(**_creation(workload, self._client.api.api_version))
            try:
                for network in workload.networks[1:]:
                    self._client.networks.get(network).connect(container)
                container.start()
            except BaseException:
                container.remove(force=True, v=True)
                raise

    def confirm_health(self, name: str) -> Health:
        # Docker's API has no call to run the health check.
        service = self.find(name)
        return service.health if service else Health.UNKNOWN

    def logs(self, name: str, query: LogQuery) -> Iterator[str]:
        with docker_errors("read the log"):
            container = self._client.containers.get(name)
            chunks = container.logs(
                stream=True,
                follow=query.follow,
                tail="all" if query.tail is None else query.tail,
                since=None if query.since is None else query.since,
            )
            yield from lines(chunks)

    def run_tool(self, name: str, arguments: Sequence[str]) -> Generator[str, None, None]:
        api = self._client.api
        with docker_errors("run a command in the container"):
            identity = api.exec_create(name, ["python", "-m", "service", *arguments])["Id"]
            pieces = api.exec_start(identity, stream=True, demux=True)
            yield from tool_lines(arguments, pieces, lambda: int(api.exec_inspect(identity)["ExitCode"]))

    def resume(self, name: str) -> None:
        with docker_errors("start the container"):
            self._client.containers.get(name).start()

    def stop(self, name: str, grace: float) -> None:
        if (service := self.find(name)) and service.ours and service.running:
            with docker_errors("stop the container"):
                try:
                    container = self._client.containers.get(name)
                    if service.paused:
                        container.unpause()  # otherwise it could not handle the signal
                    container.stop(timeout=round(grace))
                except APIError:
                    if (now := self.find(name)) and now.running:  # another process may have stopped it
                        raise

    def remove(self, name: str) -> None:
        if (service := self.find(name)) and service.ours:
            with docker_errors("remove the container"):
                try:
                    self._client.containers.get(name).remove(force=True, v=True)
                except APIError:
                    if not wait_gone(lambda: self.find(name) is None):  # another process may be removing it
                        raise

    def remove_leftovers(self) -> None:
        """The daemon stops a build and removes its container when the client disconnects."""

    def revive(self) -> None:
        """Nothing to restart: the same connection reaches a restarted daemon."""

    def close(self) -> None:
        self._client.close()


class DockerImages:
    """Implements runtimes.base.Images."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def labels(self, reference: str) -> Mapping[str, str] | None:
        with docker_errors("inspect an image"):
            try:
                return self._client.images.get(reference).labels
            except ImageNotFound:
                return None

    def build(self, build: ImageBuild) -> Generator[str, None, None]:
        with docker_errors("build the image"):
            before = self._identity(build.reference)
            yield from self._output(build)
            self._remove_unused(before)

    def remove_old_stages(self) -> None:
        with docker_errors("remove images"):
            for stage in STAGES:
                unused = self._client.images.list(filters={"dangling": True, "label": f"{STAGE_LABEL}={stage}"})
                unused.sort(key=lambda image: str(image.attrs["Created"]))
                for image in unused[:-1] if stage == BUILD_STAGE else unused:
                    self._remove_unused(image.id)

    def run(self, reference: str, command: Sequence[str]) -> str:
        with docker_errors("run a container"):
            program, *arguments = command  # an empty entrypoint would be the image's own
            shown = self._client.containers.run(reference, arguments, entrypoint=[program], remove=True, stderr=True)
            return bytes(shown).decode("utf-8", "replace").strip()

    def prune(self) -> list[str]:
        removed = []
        with docker_errors("remove images"):
            for label in (CONTENT_LABEL, STAGE_LABEL):
                for image in self._client.images.list(filters={"label": label}):
                    try:
                        self._client.images.remove(str(image.id), force=len(image.tags) > 1)
                    except APIError:
                        continue  # in use
                    removed.append(", ".join(image.tags) or f"build stage {image.short_id}")
        return removed

    def refusal(self, reference: str) -> str | None:
        if self.labels(reference) is not None:
            return None
        try:
            self._client.images.get_registry_data(reference)
        except (APIError, requests.RequestException) as error:
            return getattr(error, "explanation", None) or cause_of(error)
        return None

    def pull(self, reference: str) -> None:
        with docker_errors(f"fetch the image {reference}"):
            self._client.images.pull(reference)

    def _output(self, build: ImageBuild) -> Iterator[str]:
        responses: list[requests.Response] = []
        hooks = self._client.api.hooks["response"]
        hooks.append(note := lambda response, **_: responses.append(response))
        try:
            messages = self._client.api.build(
                fileobj=io.BytesIO(build.context),
                custom_context=True,
                dockerfile="Containerfile",
                tag=build.reference,
                buildargs=dict(build.arguments),
                labels=dict(build.labels),
                pull=build.pull,
                network_mode="host" if build.host_network else None,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=_BUILD_SECONDS,
            )
            for message in messages:
                yield from output_lines(message)
        finally:
            hooks.remove(note)
            # The daemon stops the build and its container when the client disconnects.
            for response in responses:
                response.close()

    def _identity(self, reference: str) -> str | None:
        try:
            return self._client.images.get(reference).id
        except ImageNotFound:
            return None

    def _remove_unused(self, identity: str | None) -> None:
        if identity is None:
            return
        try:
            if not self._client.images.get(identity).tags:
                self._client.images.remove(identity)
        except (ImageNotFound, APIError):
            return  # still in use


class DockerNetworks:
    """Implements runtimes.base.Networks."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def create(self, name: str, labels: Mapping[str, str]) -> None:
        with docker_errors(f"create the network {name}"):
            # Docker allows several networks of one name.
            if there := self._client.networks.list(names=[f"^{re.escape(name)}$"]):
                refuse_network(name, (there[0].attrs or {}).get("Labels"))
            else:
                self._client.networks.create(name, driver="bridge", labels=dict(labels))

    def ours(self) -> Mapping[str, Mapping[str, str]]:
        with docker_errors("list networks"):
            found = self._client.networks.list(filters={"label": NAME_LABEL})
            return {str(network.name): (network.attrs or {}).get("Labels") or {} for network in found}

    def remove(self, name: str) -> None:
        if name in self.ours():
            with docker_errors(f"remove the network {name}"), suppress(NotFound):
                self._client.networks.get(name).remove()


def _creation(workload: Workload, api_version: str) -> dict[str, Any]:
    """A workload as arguments of docker-py's ContainerCollection.create."""
    return {
        **docker_restrictions(workload),
        **({"healthcheck": _health_check(api_version)} if workload.is_service else {}),
        "image": workload.image,
        **({"command": list(workload.arguments)} if workload.arguments else {}),
        "name": workload.name,
        "labels": dict(workload.labels),
        "environment": dict(workload.environment),
        "ports": {f"{published.port}/tcp": (published.address, published.port) for published in workload.publications},
        # Not docker-py's Mount, which cannot be relabelled for SELinux; nor its list of SOURCE:TARGET:MODE: it treats a
        # mode other than ro and rw as part of the target, and creates a volume there.
        "volumes": {
            **_binds(workload.mounts),
            **{volume.name: {"bind": volume.target, "mode": "rw"} for volume in workload.volumes},
        },
        "extra_hosts": {HOST_NAME: "host-gateway"},
        **({"network": workload.networks[0]} if workload.networks else {}),
        **({"restart_policy": {"Name": workload.restart}} if workload.restart != "no" else {}),
        "log_config": LogConfig(type="json-file", config={"max-size": str(LOG_BYTES), "max-file": "1"}),
    }


def _binds(mounts: Iterable[Mount]) -> dict[str, dict[str, str]]:
    """The mounts by source; the daemon reads /./path as /path, which lets one source be mounted at several places."""
    binds: dict[str, dict[str, str]] = {}
    for mount in mounts:
        source = str(mount.source)
        while source in binds:
            source = f"/.{source}"
        binds[source] = {"bind": mount.target, "mode": _options(mount)}
    return binds


def _health_check(api_version: str) -> Healthcheck:
    """The health check, run soon after the start, so that Docker reports healthy about when the service answers."""
    check = Healthcheck(**HEALTH_CHECK)
    if tuple(map(int, api_version.split("."))) >= _START_INTERVAL_SINCE:
        check["StartInterval"] = SECOND
    else:
        check["Interval"] = 2 * SECOND
    return check


def _options(mount: Mount) -> str:
    return f"{'ro' if mount.read_only else 'rw'},{'Z' if mount.private else 'z'}"


def _remedy(error: Exception) -> str:
    if "Permission denied" in cause_of(error):
        return (
            "Let this user use it: sudo usermod -aG docker $USER, and log in again; or use rootless Docker or Podman."
        )
    return "Start it (`sudo systemctl start docker`, or Docker Desktop), or see what `docker info` says."


def _is_installed(where: str) -> bool:
    """Whether a silent Docker is an error: it was requested, or its command or socket exists."""
    socket = where.removeprefix("unix://")
    asked = bool(os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT"))
    return asked or shutil.which("docker") is not None or (socket.startswith("/") and Path(socket).exists())


def _where() -> str:
    """The address that docker-py uses, for messages; raises RuntimeUnavailable for an unknown context."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    name = os.environ.get("DOCKER_CONTEXT")
    context = ContextAPI.get_context(name)
    if context is None:
        raise RuntimeUnavailable(
            f"Docker has no context {name!r}.", "Run `docker context ls`, and set or unset DOCKER_CONTEXT."
        )
    return str(context.Host).replace("http+unix://", "unix://")
