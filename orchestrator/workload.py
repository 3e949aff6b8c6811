"""Turns a Launch into a Workload: environment, mounts, volumes, ports, labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from orchestrator.endpoints import (
    pods_seen_from_container,
    seen_from_container,
    shared_state_seen_from_container,
    url_seen_from_container,
)
from orchestrator.errors import Problem
from orchestrator.host.identity import identity, reader_of, refuse_unreadable
from orchestrator.host.models_folder import parts
from orchestrator.host.ownership import Owner
from orchestrator.host.secrets import write_secret
from orchestrator.host.state import discovered_folder, make_discovered_folder, make_service_folder, service_folder
from orchestrator.launch import FILE_SETTINGS, Launch
from orchestrator.mounted_files import mounted_file, mounted_files
from orchestrator.proxies import has_password, proxies
from orchestrator.proxies import seen_from_container as in_container
from orchestrator.publishing import ports
from orchestrator.runtimes.base import (
    ADDRESS_LABEL,
    INSTANCE_LABEL,
    MODEL_LABEL,
    NAME_LABEL,
    OWNER_LABEL,
    PORT_LABEL,
    READY_LABEL,
    STOP_LABEL,
    STOP_SECONDS,
    TLS_LABEL,
    ContainerRuntime,
    Mount,
    Publication,
    RuntimeKind,
    Volume,
    Workload,
)
from service.contract.containers import FILE, HOST_NAME
from service.contract.discovery import CONTAINERS
from service.contract.endpoints import format_endpoints
from service.contract.secret_environment import VARIABLE, dump
from service.contract.settings import FROM_SHARED_STATE

_MODELS = PurePosixPath("/models")
_PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables of the hub's client that reach the service from the shell."""
_HUB_CACHE = "/cache/huggingface"
_SHARED_STATE = "SHARED_STATE"
_SECRET_SETTINGS = ("API_KEYS", _SHARED_STATE, "OTEL_EXPORTER_OTLP_HEADERS")
_DEFAULT_MEMORY = 4 << 30
_URLS = ("RENDER_URL", "BOOTSTRAP_FROM", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Settings that may name a server on this machine's loopback."""
_TOKEN = "/run/secrets/hf-token"  # noqa: S105 - a path
_SECRET_ENVIRONMENT = "/run/secrets/environment"  # noqa: S105 - a path
HUB_CACHE_VOLUME = "kvcache-huggingface"
_STATE = "/state"
_DISCOVERED = "/run/discovered"


class Place(Protocol):
    """The facts about a runtime on which the description of a service depends."""

    @property
    def kind(self) -> RuntimeKind: ...

    @property
    def machine(self) -> str | None: ...

    @property
    def rootless(self) -> bool: ...


def prepare(launch: Launch, runtime: ContainerRuntime, *, dry: bool = False) -> Workload:
    """The service's description for this runtime.

    Unless `dry`, writes secrets and creates the folders of --hf-cache and --state-dir.

    Raises Problem if the runtime cannot provide a feature that the launch requires.
    """

    def secret(name: str, text: str) -> Path:
        if dry:
            return service_folder(runtime.kind, launch.name) / name
        return write_secret(make_service_folder(runtime.kind, launch.name), name, text)

    token = secret("hf-token", launch.token) if launch.token else None
    if runtime.kind is RuntimeKind.PROCESS:
        if launch.follows_containers:
            raise Problem(
                "--discovery containers: a child process does not join the networks of containers.",
                "Use --runtime podman or docker, or name the engines with --pod.",
            )
        return _as_child(launch, token)
    found, secrets = described(launch, runtime, dry=dry)
    if secrets:
        environment = {**found.environment, VARIABLE: _SECRET_ENVIRONMENT}
        mount = Mount(secret("environment", dump(secrets)), _SECRET_ENVIRONMENT, read_only=True, private=True)
        found = replace(found, environment=environment, mounts=(*found.mounts, mount))
    if token:
        environment = {**found.environment, "HF_TOKEN_PATH": _TOKEN}
        mount = Mount(token, _TOKEN, read_only=True, private=True)
        found = replace(found, environment=environment, mounts=(*found.mounts, mount))
    if runtime.machine and found.mounts:
        raise Problem(
            f"The runtime is on another machine, {runtime.machine}, which cannot mount {found.mounts[0].source}.",
            "Leave out --models-dir, --hf-cache, --state-dir, --tls-cert, the token and passwords of proxies, "
            "or use a runtime of this machine.",
        )
    return found


def _labels(launch: Launch, address: str) -> dict[str, str]:
    return {
        NAME_LABEL: launch.deployment or launch.name,
        **({} if launch.model_is_of_pods else {MODEL_LABEL: launch.model}),
        ADDRESS_LABEL: address,
        PORT_LABEL: str(launch.port),
        INSTANCE_LABEL: launch.instance,
        **({TLS_LABEL: "true"} if launch.tls else {}),
        **({READY_LABEL: wait} if (wait := launch.environment.get("READY_REPLAY_TIMEOUT", "").strip()) else {}),
        **({STOP_LABEL: str(launch.stop_seconds)} if launch.stop_seconds > STOP_SECONDS else {}),
        **({} if launch.detach else {OWNER_LABEL: str(Owner.this_process())}),
    }


def _settings(launch: Launch, proxy: Mapping[str, str]) -> dict[str, str]:
    return {
        "CONTAINER_ENV": "true",
        "INSTANCE_ID": launch.instance,
        **({} if launch.model_is_of_pods else {"MODEL_NAME": launch.model}),
        "PODS": _comma_separated(launch.pod_entries),
        **({"DISCOVERY": _comma_separated(launch.sources)} if launch.sources else {}),
        **({"RENDERERS": launch.renderers} if launch.renderers else {}),
        "ZMQ_ENDPOINT": format_endpoints(launch.endpoints),
        "ZMQ_TOPIC": launch.zmq_topic,
        "POOL_CONCURRENCY": str(launch.pool_concurrency),
        "BLOCK_SIZE": str(launch.block_size),
        "HTTP_PORT": str(launch.port),
        "HF_ENDPOINT": launch.hf_endpoint,
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        **proxy,
        **launch.settings,
    }


def _comma_separated(entries: Iterable[object]) -> str:
    return ",".join(map(str, entries))


def _as_child(launch: Launch, token: Path | None) -> Workload:
    environment = {**_settings(launch, proxies(os.environ)), "HTTP_HOST": launch.publish_address}
    for variable, path in (
        ("MODELS_DIR", launch.models_dir),
        ("HF_HOME", launch.hf_cache),
        ("STATE_DIR", launch.state_dir),
        ("HF_TOKEN_PATH", token),
    ):
        if path is not None:
            environment[variable] = str(path.resolve())
    # Not resolved: a renewed certificate may be another file under the same link.
    environment |= {_variable(option): str(path.absolute()) for option, path in launch.tls_files}
    return Workload(
        name=launch.name,
        labels=_labels(launch, launch.publish_address),
        environment=environment,
        publications=(Publication(launch.publish_address, launch.port),),
        lives_with_parent=not launch.detach,
    )


def _unless_missing(folder: Path | None, *, dry: bool) -> Path | None:
    """A folder; None if it would have to be made in a dry run."""
    return None if dry and folder is not None and not folder.exists() else folder


def _variable(option: str) -> str:
    return option.removeprefix("--").replace("-", "_").upper()


def described(launch: Launch, runtime: Place, *, dry: bool) -> tuple[Workload, dict[str, str]]:
    """The service's description for a runtime of containers, and its secret settings, which are not in there.

    Unless `dry`, creates the folders of --hf-cache and --state-dir. Raises Problem.
    """
    keeps_id = runtime.kind is RuntimeKind.PODMAN
    who = identity(
        rootless=bool(launch.hf_cache or launch.state_dir) and runtime.rootless,
        keeps_id=keeps_id,
        hf_cache=_unless_missing(launch.hf_cache, dry=dry),
        state_dir=_unless_missing(launch.state_dir, dry=dry),
    )
    files = mounted_files(launch.tls_files)
    named = {
        str(file.path): mounted_file(file.named_by, file.path, f"file-{number}")
        for number, file in enumerate(launch.named_files)
    }
    paths = {path: file.path for path, file in named.items()}
    if (files or named) and not (launch.hf_cache or launch.state_dir):
        sources = [*(path for _, path in launch.tls_files), *(file.path for file in launch.named_files)]
        who = reader_of(sources, rootless=runtime.rootless, keeps_id=keeps_id)
    mounts = []
    proxy = in_container(proxies(os.environ), HOST_NAME)
    secret = {name: value for name, value in proxy.items() if has_password(value)}
    environment = {
        **_settings(launch, {name: value for name, value in proxy.items() if name not in secret}),
        **{_variable(file.option): file.path for file in files},
        **{name: paths[path] for name in FILE_SETTINGS if (path := launch.settings.get(name, "")) in paths},
        "ZMQ_ENDPOINT": _seen_from_container(launch, paths),
        "PODS": _pods_seen_from_container(launch, paths),
        **({"DISCOVERY": _sources_seen_from_container(launch, paths)} if launch.sources else {}),
        "HTTP_HOST": "0.0.0.0",  # noqa: S104 - of the container; only one port is published
        "MODELS_DIR": str(_MODELS),
        "HF_HOME": _HUB_CACHE,
        **({"STATE_DIR": _STATE} if launch.keeps_state else {}),
    }
    for name in _URLS:
        url = environment.get(name, "").strip()
        if url not in {"", FROM_SHARED_STATE} and not launch.engines_beside:
            environment[name] = url_seen_from_container(url, HOST_NAME)
    if shared := environment.get(_SHARED_STATE, "").strip():
        environment[_SHARED_STATE] = shared_state_seen_from_container(shared, HOST_NAME, paths)
    if launch.models_dir:
        for part in parts(launch.models_dir):
            refuse_unreadable(part.source)
            mounts.append(Mount(part.source, str(_MODELS / part.place), read_only=True))
    if launch.hf_cache:
        mounts.append(Mount(launch.hf_cache.resolve(), _HUB_CACHE, read_only=False))
    if launch.state_dir:
        mounts.append(Mount(launch.state_dir.resolve(), _STATE, read_only=False))
    mounts += [file.mount for file in (*files, *named.values())]
    if launch.follows_containers:
        folder = (discovered_folder if dry else make_discovered_folder)(runtime.kind, launch.name)
        mounts.append(Mount(folder, _DISCOVERED, read_only=True))
    if not runtime.machine:
        secret |= {name: environment.pop(name) for name in _SECRET_SETTINGS if name in environment}
    workload = Workload(
        name=launch.name,
        image=launch.image,
        labels=_labels(launch, service_address(launch, runtime)),
        environment=environment,
        publications=tuple(Publication(port.address, port.number) for port in ports(launch, runtime.kind)),
        mounts=tuple(mounts),
        volumes=(
            *(() if launch.hf_cache else (Volume(HUB_CACHE_VOLUME, _HUB_CACHE),)),
            *((Volume(f"{launch.name}-state", _STATE),) if launch.keeps_state and not launch.state_dir else ()),
        ),
        user=who.user,
        as_caller=who.as_caller,
        cpus=launch.cpus,
        memory=memory_limit(launch.memory, rootless=runtime.rootless),
        networks=launch.networks,
        restart=launch.restart,
    )
    return workload, secret


def _seen_from_container(launch: Launch, files: Mapping[str, str]) -> str:
    """ZMQ_ENDPOINT; `files` are the paths inside the container of this machine's files."""
    endpoints = [replace(one, curve=files.get(one.curve or "", one.curve)) for one in launch.endpoints]
    return format_endpoints(endpoints if launch.engines_beside else seen_from_container(endpoints, HOST_NAME))


def _pods_seen_from_container(launch: Launch, files: Mapping[str, str]) -> str:
    """PODS; `files` are the paths inside the container of this machine's files."""
    pods = [replace(pod, key_file=files.get(pod.key_file or "", pod.key_file)) for pod in launch.pod_entries]
    return _comma_separated(pods if launch.engines_beside else pods_seen_from_container(pods, HOST_NAME))


def _sources_seen_from_container(launch: Launch, files: Mapping[str, str]) -> str:
    """DISCOVERY; `files` are the paths inside the container of this machine's files."""
    file = f"{_DISCOVERED}/{FILE}"
    return _comma_separated(
        replace(source, place=file) if source.kind == CONTAINERS else source.with_files(files)
        for source in launch.sources
    )


def memory_limit(wanted: int | None, *, rootless: bool) -> int | None:
    """The limit of a container in bytes; None for none.

    The default holds the default limits at their worst: 1 GiB for requests, 20 million blocks, and as much again while
    tables grow. A rootless runtime may not be allowed to set limits, so it has no default.
    """
    if wanted is None:
        return None if rootless else _DEFAULT_MEMORY
    return wanted or None


def service_address(launch: Launch, runtime: Place) -> str:
    """The address at which this machine reaches the published service."""
    return runtime.machine or launch.publish_address
