"""Podman, through the podman package (podman-py 5.8 against Podman 4.3 to 5)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import podman
import requests
from podman.errors import APIError, ImageNotFound, NotFound, PodmanError

from orchestrator.engines.base import (
    NAME_LABEL,
    EngineKind,
    Health,
    ImageBuild,
    Images,
    LogQuery,
    Mount,
    Service,
    Workload,
)
from orchestrator.engines.hardening import HEALTH_CHECK, LOG_BYTES, PIDS_LIMIT, TMP_BYTES, sysctls
from orchestrator.engines.inspection import service_from
from orchestrator.engines.podman_service import PodmanService
from orchestrator.engines.remote import remote_machine
from orchestrator.engines.streams import frames, lines, tool_lines
from orchestrator.errors import BuildFailed, EngineUnavailable, Problem, cause_of

_ANSWER_SECONDS = 3.0
_CALL_SECONDS = 60.0
# Podman's own OCI format has no place for a health check.
_DOCKER_FORMAT = "application/vnd.docker.distribution.manifest.v2+json"


_ROOT_SOCKET = "http+unix:///run/podman/podman.sock"  # podman-py would look below XDG_RUNTIME_DIR for root, too


@dataclass(frozen=True)
class _Api:
    """An address of Podman's API; None for where podman-py looks by itself, a `podman machine` included.

    Never podman-py's `from_env`, which would take DOCKER_HOST for Podman's.
    """

    url: str | None

    def client(self, timeout: float | None = None) -> Any:
        named = {"base_url": self.url} if self.url else {}
        return podman.PodmanClient(timeout=timeout, **named)

    def __str__(self) -> str:
        return str(self.client().api.base_url.geturl())

    @property
    def local(self) -> bool:
        return str(self).startswith(("unix://", "http+unix://"))

    def check(self) -> None:
        """Raises what podman-py raises, or OSError, if no Podman answers there."""
        path = Path(unquote(urlsplit(str(self)).netloc or urlsplit(str(self)).path))
        if self.local and not path.exists():
            raise FileNotFoundError(f"there is no socket {path}")
        with self.client(_ANSWER_SECONDS) as client:
            if not client.ping():
                raise ConnectionError(f"{self} is not Podman's API")


class Podman:
    """Implements engines.base.Engine."""

    kind = EngineKind.PODMAN

    def __init__(self, api: _Api, service: PodmanService | None) -> None:
        self._service = service
        self._client = api.client(timeout=_CALL_SECONDS)
        self._stream_client = api.client()
        self.images: Images = PodmanImages(self._client, api, service)
        self._address = str(api)
        shown = "an API of our own" if service else self._address
        self.description = f"Podman {self._client.version()['Version']} at {shown}"

    @classmethod
    def connect(cls) -> Self:
        """The Podman of CONTAINER_HOST, else one whose API socket answers, else one whose API we start.

        Raises EngineUnavailable.
        """
        if named := os.environ.get("CONTAINER_HOST"):
            api = _Api(named)
            with _errors(f"connect to CONTAINER_HOST={named}"):
                api.check()
                return cls(api, None)
        try:
            api = _Api(_ROOT_SOCKET if os.geteuid() == 0 else None)
            api.check()
            return cls(api, None)
        except (APIError, requests.RequestException, OSError):
            pass
        if shutil.which("podman") is None:
            raise EngineUnavailable(
                "Podman is not here: there is neither a `podman` command nor an API socket.",
                "Install Podman (https://podman.io/docs/installation).",
            )
        service = PodmanService()
        try:
            with _errors("connect to the API that was started"):
                return cls(_Api(service.url), service)
        except BaseException:
            service.close()
            raise

    @property
    def machine(self) -> str | None:
        return remote_machine(self._address)

    @cached_property
    def rootless(self) -> bool:
        with _errors("describe itself"):
            return bool(self._client.info()["host"]["security"]["rootless"])

    def services(self) -> Iterator[Service]:
        with _errors("list containers"):
            names = [found.name for found in self._client.containers.list(all=True, filters={"label": NAME_LABEL})]
        for name in names:
            if service := self.find(name):
                yield service

    def find(self, name: str) -> Service | None:
        with _errors("inspect a container"):
            try:
                return service_from(self._client.containers.get(name).attrs, self.kind)
            except NotFound:
                return None

    def holder_of_port(self, port: int) -> str | None:
        with _errors("list containers"):
            for container in self._client.containers.list():
                if any(port == mapping.get("host_port") for mapping in container.attrs.get("Ports") or ()):
                    return str(container.name)
        return None

    def start(self, workload: Workload) -> None:
        with _errors("start the container"):
            container = self._client.containers.create(**_creation(workload))
            try:
                container.start()
            except BaseException:
                container.remove(force=True, v=True)
                raise

    def confirm_health(self, name: str) -> Health:
        # Each run updates the state that `podman ps` shows, which without systemd nothing else does.
        with _errors("check the service's health"):
            response = self._client.api.get(f"/containers/{name}/healthcheck")
            if response.status_code == requests.codes.conflict:
                return Health.UNKNOWN
            response.raise_for_status()
        return Health(response.json()["Status"])

    def logs(self, name: str, query: LogQuery) -> Iterator[str]:
        with _errors("read the log"):
            container = self._stream_client.containers.get(name)
            since = None if query.since is None else int(query.since)
            chunks = container.logs(stream=True, follow=query.follow, tail=query.tail, since=since)
            yield from lines(chunks)

    def run_tool(self, name: str, arguments: Sequence[str]) -> Generator[str, None, None]:
        # podman-py's own exec_run does not say which exec it was, so that its exit code could not be asked for.
        wanted = {"AttachStdout": True, "AttachStderr": True, "Cmd": ["python", "-m", "service", *arguments]}
        api = self._stream_client.api
        with _errors("run a command in the container"):
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

    def stop(self, name: str, grace: float) -> None:
        if (service := self.find(name)) and service.ours and service.running:
            with _errors("stop the container"):
                self._client.containers.get(name).stop(timeout=round(grace), ignore=True)

    def remove(self, name: str) -> None:
        if (service := self.find(name)) and service.ours:
            with _errors("remove the container"):
                try:
                    self._client.containers.get(name).remove(force=True, v=True)
                except NotFound:
                    return

    def close(self) -> None:
        self._client.close()
        self._stream_client.close()
        if self._service:
            self._service.close()


class PodmanImages:
    """Implements engines.base.Images."""

    def __init__(self, client: Any, api: _Api, service: PodmanService | None) -> None:
        self._client = client
        self._api = api
        self._service = service

    def labels(self, reference: str) -> Mapping[str, str] | None:
        image = self._get(reference)
        return None if image is None else image.attrs.get("Labels") or {}

    def _get(self, reference: str) -> Any:
        with _errors("inspect an image"):
            try:
                return self._client.images.get(reference)
            except ImageNotFound:
                return None

    def build(self, build: ImageBuild) -> Generator[str, None, None]:
        before = self._get(build.reference)
        # A build can be ended only together with the API that runs it, so it gets one of ours where that can be.
        service = self._service or (PodmanService() if self._api.local and shutil.which("podman") else None)
        client = _Api(service.url).client() if service else self._api.client()
        try:
            with _errors("build the image"):
                yield from _build_output(client, build, service)
        finally:
            client.close()
            if service and service is not self._service:
                service.close()
        self._remove_unused(before)

    def refusal(self, reference: str) -> str | None:
        if self._get(reference) is not None:
            return None
        try:
            self._client.manifests.get(reference)
        except (APIError, requests.RequestException) as error:
            return getattr(error, "explanation", None) or str(error)
        return None

    def _remove_unused(self, before: Any) -> None:
        if before is None:
            return
        with _errors("remove the image of before"):
            try:
                if not self._client.images.get(before.id).tags:
                    self._client.images.remove(before.id)
            except (ImageNotFound, APIError):
                return  # still in use


def _build_output(client: Any, build: ImageBuild, service: PodmanService | None) -> Iterator[str]:
    """Streams what podman-py's own `build` gives only when all is over."""
    response = client.api.post(
        "/build",
        params={
            "dockerfile": "Containerfile",
            "t": build.reference,
            "buildargs": json.dumps(dict(build.arguments)),
            "labels": json.dumps(dict(build.labels)),
            "outputformat": _DOCKER_FORMAT,
            "layers": True,
            "nocache": not build.use_cache,
            "rm": True,
            "forcerm": True,
        },
        data=build.context,
        headers={"Content-Type": "application/x-tar"},
        stream=True,
    )
    response.raise_for_status()
    # A signal that tears a read apart closes the connection, and with it the only way to see that a build is over.
    lines: SimpleQueue[bytes | requests.RequestException | None] = SimpleQueue()
    reader = Thread(target=_read, args=(response, lines), daemon=True)
    reader.start()
    try:
        while (line := lines.get()) is not None:
            if isinstance(line, requests.RequestException):
                raise line
            message = json.loads(line)
            if error := message.get("error"):
                raise BuildFailed(f"The image does not build: {error.strip()}", "Its last lines are above.")
            yield from message.get("stream", "").splitlines()
    finally:
        if service:
            service.end_build(reader)
        response.close()


def _read(response: requests.Response, lines: SimpleQueue[bytes | requests.RequestException | None]) -> None:
    try:
        for line in response.iter_lines():
            lines.put(line)
    except requests.RequestException as error:
        lines.put(error)
    lines.put(None)


def _creation(workload: Workload) -> dict[str, Any]:
    """A workload in podman-py's words (ContainersManager.create)."""
    return {
        "image": workload.image,
        "name": workload.name,
        "labels": dict(workload.labels),
        "environment": dict(workload.environment),
        "user": workload.user,
        **({"userns_mode": {"nsmode": "keep-id", "value": _kept(workload.user)}} if workload.as_caller else {}),
        "ports": {f"{published.port}/tcp": (published.address, published.port) for published in workload.publications},
        "mounts": [
            # Without a source a folder would be made instead of a file system in memory.
            {"type": "tmpfs", "source": "tmpfs", "target": "/tmp", "size": TMP_BYTES, "mode": "1777"},  # noqa: S108
            *(_mount(mount) for mount in workload.mounts),
        ],
        "volumes": {volume.name: {"bind": volume.target, "mode": "rw"} for volume in workload.volumes},
        "read_only": True,
        "read_write_tmpfs": False,
        "cap_drop": ["ALL"],
        "no_new_privileges": True,
        "pids_limit": PIDS_LIMIT,
        "sysctls": sysctls(workload),
        "healthcheck": HEALTH_CHECK,
        "use_config_proxy": False,
        "log_config": {"Type": "k8s-file", "Config": {"size": LOG_BYTES}},
        "mem_limit": workload.memory,
        **({"cpu_period": 100_000, "cpu_quota": int(workload.cpus * 100_000)} if workload.cpus else {}),
    }


def _kept(user: str) -> str:
    uid, gid = user.split(":")
    return f"uid={uid},gid={gid}"


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": str(mount.source),
        "target": mount.target,
        "read_only": mount.read_only,
        "relabel": "Z" if mount.private else "z",
    }


@contextmanager
def _errors(doing: str) -> Iterator[None]:
    """Turns what podman-py raises into a Problem."""
    try:
        yield
    except (APIError, PodmanError, requests.RequestException, OSError, KeyError, ValueError) as error:
        # podman-py says APIError, too, when there was no answer.
        if isinstance(error, APIError) and error.response is not None:
            raise Problem(
                f"Podman could not {doing}: {error.explanation or error}",
                "Run `kvcache doctor`, which looks for the cause.",
            ) from error
        raise EngineUnavailable(
            f"Podman did not answer when asked to {doing}: {cause_of(error)}",
            "Run `podman info`, which should show the cause; or choose another engine with --engine.",
        ) from error
