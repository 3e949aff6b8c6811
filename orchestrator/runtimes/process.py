"""Runs the service as a child process of this Python, for machines without a container runtime."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

import psutil

from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.health import Answer, who_answers
from orchestrator.host.ownership import process
from orchestrator.host.state import forget_service, make_service_folder, service_folder, state_home
from orchestrator.runtimes import tether
from orchestrator.runtimes.base import (
    INSTANCE_LABEL,
    TLS_LABEL,
    Health,
    LogQuery,
    Publication,
    RuntimeKind,
    Service,
    Workload,
)
from orchestrator.runtimes.log_file import read_log
from orchestrator.runtimes.streams import tool_lines

_PACKAGES = Path(__file__).resolve().parent.parent.parent
# Environment variables that every program needs. The workload sets all others, so that a setting of the service
# that is set in the shell has no effect, as with a container.
_INHERITED_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|SYSTEMROOT|LD_LIBRARY_PATH|XDG_CACHE_HOME"
    r"|PYTHONPATH|VIRTUAL_ENV|SSL_CERT_FILE|SSL_CERT_DIR|HF_HOME|HF_HUB_CACHE",
    re.IGNORECASE,
)
_NAMING_FILES = re.compile(r"SSL_CERT_FILE|HF_HOME|HF_HUB_CACHE|XDG_CACHE_HOME", re.IGNORECASE)


@dataclass(frozen=True)
class _Record:
    """The record of a child process, by which a later command finds it; the start time guards against reused pids."""

    pid: int
    started: float
    labels: Mapping[str, str]
    address: str
    ports: tuple[int, ...]

    @classmethod
    def read(cls, name: str) -> Self | None:
        try:
            fields: dict[str, Any] = json.loads(_record_path(name).read_text())
            return cls(**{**fields, "ports": tuple(fields["ports"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, name: str) -> None:
        _record_path(name).write_text(json.dumps(vars(self)))

    @property
    def process(self) -> psutil.Process | None:
        return process(self.pid, self.started)


class Processes:
    """Implements runtimes.base.ContainerRuntime."""

    kind = RuntimeKind.PROCESS
    description = f"a child process of {sys.executable}"
    images = None
    networks = None
    containers = None
    machine = None
    rootless = False

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def connect(cls) -> Self:
        """Always available; raises RuntimeUnavailable if the service's own dependencies are not installed."""
        if missing := missing_packages():
            raise RuntimeUnavailable(
                f"The service cannot run in this Python: {names_of(missing)} not installed.",
                install_command(),
                installed=False,
            )
        return cls()

    def services(self) -> Iterator[Service]:
        for path in sorted((state_home() / self.kind).glob("*/process.json")):
            if service := self.find(path.parent.name):
                yield service

    def find(self, name: str) -> Service | None:
        record = _Record.read(name)
        if record is None:
            return None
        child = self._children.get(name)
        exit_code = child.poll() if child else None
        running = record.process is not None
        return Service(
            runtime=self.kind,
            name=name,
            ours=True,
            image="",
            state="running" if running else "exited",
            running=running,
            health=self._health(record) if running else Health.UNKNOWN,
            exit_code=exit_code,
            started_at=record.started if running else None,
            labels=record.labels,
            publications=tuple(Publication(record.address, port) for port in record.ports),
        )

    def _health(self, record: _Record) -> Health:
        instance = record.labels.get(INSTANCE_LABEL, "")
        answer = who_answers(record.address, record.ports[0], instance, tls=TLS_LABEL in record.labels)
        return Health.HEALTHY if answer is Answer.OURS else Health.STARTING

    def holder_of_port(self, port: int) -> str | None:
        return next((service.name for service in self.services() if service.running and _has(service, port)), None)

    def refusal_of_address(self, address: str) -> str | None:
        return None

    def start(self, workload: Workload) -> None:
        folder = make_service_folder(self.kind, workload.name)
        tied = _die_with_parent() if workload.lives_with_parent else []
        with _log_path(workload.name).open("wb") as log:
            child = subprocess.Popen(
                [*tied, sys.executable, "-m", "service", "serve"],
                cwd=_PACKAGES,
                env={**_inherited_environment(), **workload.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[workload.name] = child
        try:
            _Record(
                pid=child.pid,
                started=psutil.Process(child.pid).create_time(),
                labels=dict(workload.labels),
                address=workload.publications[0].address,
                ports=tuple(published.port for published in workload.publications),
            ).write(workload.name)
        except (OSError, psutil.Error) as error:
            child.kill()
            child.wait()
            raise Problem(f"The service could not be recorded in {folder}: {error}", "Make it writable.") from error

    def confirm_health(self, name: str) -> Health:
        service = self.find(name)
        return service.health if service else Health.UNKNOWN

    def logs(self, name: str, query: LogQuery) -> Iterator[str]:
        record = _Record.read(name)
        yield from read_log(_log_path(name), query, lambda: record is not None and record.process is not None)

    def run_tool(self, name: str, arguments: Sequence[str]) -> Generator[str, None, None]:
        with TemporaryFile() as errors:
            tool = subprocess.Popen(
                [*_die_with_parent(), sys.executable, "-m", "service", *arguments],
                cwd=_PACKAGES,
                env=_inherited_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            assert tool.stdout is not None  # noqa: S101 - it is a pipe
            try:
                with tool.stdout as output:
                    yield from tool_lines(arguments, _pieces(output, errors), tool.wait)
            finally:
                tool.kill()
                tool.wait()

    def resume(self, name: str) -> None:
        raise Problem(
            f"The service {name} was a child process, which cannot be started again.",
            "Start it anew with its options: kvcache up; or run it in a container.",
        )

    def stop(self, name: str, grace: float) -> None:
        if (record := _Record.read(name)) and (running := record.process):
            with suppress(psutil.NoSuchProcess):
                running.terminate()
            deadline = time.monotonic() + grace
            while record.process is not None:
                if time.monotonic() > deadline:
                    running.kill()
                    return
                time.sleep(0.01)

    def remove(self, name: str) -> None:
        if (record := _Record.read(name)) and (running := record.process):
            with suppress(psutil.NoSuchProcess):
                running.kill()
        if child := self._children.pop(name, None):
            child.wait()
        forget_service(self.kind, name)

    def remove_leftovers(self) -> None:
        """Does nothing: a child process needs no build."""

    def revive(self) -> None:
        """Does nothing: no connection exists."""

    def close(self) -> None:
        """Does nothing: a detached service keeps running."""


def _die_with_parent() -> list[str]:
    """The prefix of a command that must end when this process ends."""
    return [sys.executable, "-IS", tether.__file__, str(os.getpid())]


def _pieces(output: IO[bytes], errors: IO[bytes]) -> Iterator[tuple[bytes | None, bytes | None]]:
    for line in output:
        yield line, None
    errors.seek(0)
    yield None, errors.read()


def missing_packages() -> list[str]:
    """Requirements of the service (the extra `service`) that are not installed in this Python."""
    try:
        required = metadata.requires("kvcache") or ()
    except metadata.PackageNotFoundError:
        return []  # a checkout without an installation
    missing = []
    for requirement in required:
        specifier, _, marker = requirement.partition(";")
        name = re.match(r"[\w.-]+", specifier)
        if name and re.fullmatch(r"\s*extra == ['\"]service['\"]\s*", marker) and not _is_installed(name[0]):
            missing.append(specifier.strip())
    return missing


def names_of(requirements: Iterable[str]) -> str:
    """The distribution names of requirements, for messages."""
    return ", ".join(re.split(r"[^\w.-]", requirement)[0] for requirement in requirements)


def install_command() -> str:
    """The command that adds the service's half to the kvcache that is installed in this Python."""
    return f"Run: {sys.executable} -m pip install 'kvcache[service]'"


def _is_installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def _inherited_environment() -> dict[str, str]:
    """This process's variables that every program needs; the paths in them hold in any working directory."""
    return {
        name: str(Path(value).absolute()) if value and _NAMING_FILES.fullmatch(name) else value
        for name, value in os.environ.items()
        if _INHERITED_VARIABLES.fullmatch(name)
    }


def _has(service: Service, port: int) -> bool:
    return any(published.port == port for published in service.publications)


def _record_path(name: str) -> Path:
    return service_folder(RuntimeKind.PROCESS, name) / "process.json"


def _log_path(name: str) -> Path:
    return service_folder(RuntimeKind.PROCESS, name) / "service.log"
