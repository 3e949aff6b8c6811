"""All resolved choices of one `kvcache up`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from orchestrator.errors import UsageError
from orchestrator.runtimes.base import STOP_SECONDS, RuntimeKind
from service.contract.assignments import parse_renderers
from service.contract.discovery import CONTAINERS, SourceEntry, parse_discovery
from service.contract.endpoints import Endpoint, format_endpoints, parse_optional_endpoints
from service.contract.pods import PodEntry, parse_pods
from service.contract.settings import Settings, SettingsError
from service.contract.shared_state import moved, parse_shared_state
from service.contract.units import parse_size

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SERVICE = Settings()
_LEAST_MEMORY = 6 << 20  # of a container, in Docker
_SIMILAR = 0.8
_LAST_PORT = 65535
_LONGEST_NAME = 63 - len("-valkey")  # of the labels of a host name
WITHOUT_KEY = (
    "Set API_KEYS (docs/http.md), or ask for client certificates with --tls-client-ca; or leave out --publish-address."
)
RESTART_POLICIES = ("no", "on-failure", "always", "unless-stopped")
# Variables that have their own option, and the option's name.
_RESERVED = {
    "MODEL_NAME": "--model",
    "PODS": "--pod",
    "DISCOVERY": "--discovery",
    "RENDERERS": "--renderer",
    "MODELS_DIR": "--models-dir",
    "ZMQ_ENDPOINT": "--zmq-endpoint",
    "ZMQ_TOPIC": "--zmq-topic",
    "POOL_CONCURRENCY": "--pool-concurrency",
    "BLOCK_SIZE": "--block-size",
    "HTTP_PORT": "--port",
    "HTTP_HOST": "--publish-address",
    "TLS_CERT": "--tls-cert",
    "TLS_KEY": "--tls-key",
    "TLS_CLIENT_CA": "--tls-client-ca",
    "HF_HOME": "--hf-cache",
    "STATE_DIR": "--state-dir",
    "HF_ENDPOINT": "--hf-endpoint",
    "HF_TOKEN": "HF_TOKEN=… in front of the command, so that nobody reads it in `inspect`",
    "HF_TOKEN_PATH": "HF_TOKEN_PATH=… in front of the command",
    "CONTAINER_ENV": "nothing: it is always set",
    "INSTANCE_ID": "nothing: it is always set",
}
FILE_SETTINGS = tuple(
    setting.name.upper()
    for setting in fields(Settings)
    if str(setting.type) == "Path | None" and setting.name.upper() not in _RESERVED
)
"""Settings that name files of this machine; a container gets them as mounts."""


class NamedFile(NamedTuple):
    """A file that an option or a setting names, with the words for it in messages; `path` is absolute."""

    named_by: str
    path: Path
    may_be_folder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The resolved options of one launch: flags, environment, file and defaults are merged.

    `runtime` None: the first that answers. `build` True forces a build, False forbids it, None builds on changes.
    `memory` is in bytes, None is the default of a container and 0 no limit; `timeout` is in seconds.
    """

    runtime: RuntimeKind | None = None
    name: str = "kv-cache-unified-online"
    image: str = "kv-cache-unified-online"
    base_image: str = "docker.io/library/python:3.12-slim"
    port: int = _SERVICE.http_port
    publish_address: str = "127.0.0.1"
    model: str = _SERVICE.model_name
    names_model: bool = True
    """Whether `model` was named, and is not the default."""
    models_dir: Path | None = None
    hf_cache: Path | None = None
    state_dir: Path | None = None
    hf_endpoint: str = "https://huggingface.co"
    pods: str = ""
    discovery: str = ""
    renderers: str = ""
    zmq_endpoint: str = format_endpoints(_SERVICE.zmq_endpoint)
    zmq_topic: str = _SERVICE.zmq_topic
    pool_concurrency: int = _SERVICE.pool_concurrency
    block_size: int = _SERVICE.block_size
    environment: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    wheel: Path | None = None
    build: bool | None = None
    pull: bool = False
    timeout: float = 30.0
    cpus: float | None = None
    memory: int | None = None
    networks: tuple[str, ...] = ()
    replicas: int = 1
    valkey_image: str | None = None
    """The image of the Valkey that replicas meet at; None for one that is built on `base_image`."""
    restart: str = "no"
    detach: bool = False
    token: str | None = field(default=None, repr=False)
    instance: str = field(default_factory=lambda: uuid4().hex)
    """Id of this launch, which distinguishes its service from other programs on the port."""
    keeps_state: bool = True
    """Whether a service of the same name continues from this one's snapshots."""
    deployment: str = ""
    """Name of the deployment, if the service is one of its replicas and not all of it."""
    publishes_events: bool = True
    """Whether ports that engines connect to are published: two replicas cannot have the same."""
    engines_beside: bool = False
    """Whether the engines share the service's loopback, so that loopback in `zmq_endpoint` is not rewritten."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.model.strip():
            raise UsageError("--model: the name is empty.", "Name a model, or leave --model out.")
        try:
            parse_renderers(self.renderers)
        except ValueError as error:
            raise UsageError(f"--renderer: {error}.", "Example: org/model=engine") from None
        _check_url(self.hf_endpoint)
        try:
            ip_address(self.publish_address)
        except ValueError:
            raise UsageError(
                f"--publish-address: {self.publish_address!r} is not an IP address.",
                "Examples: 127.0.0.1, 0.0.0.0, ::1",
            ) from None
        self._check_files()
        self._check_replicas()
        if self.restart not in RESTART_POLICIES:
            raise UsageError(f"--restart: {self.restart!r} is not valid.", f"Use one of {', '.join(RESTART_POLICIES)}.")
        if self.restart != "no" and not self.detach:
            raise UsageError("--restart: only for a service that stays when `up` returns.", "Add --detach.")

    def _check_files(self) -> None:
        for named in self.named_files:
            if not named.path.exists():
                raise UsageError(f"{named.named_by}: {named.path} does not exist.", "Name a file that does.")
            if named.path.is_dir() and not named.may_be_folder:
                raise UsageError(f"{named.named_by}: {named.path} is a folder.", "Name a file.")
        for option, folder in (
            ("--models-dir", self.models_dir),
            ("--ca-bundle", self.ca_bundle),
            ("--wheel", self.wheel),
        ):
            if folder is not None and not folder.exists():
                raise UsageError(f"{option}: {folder} does not exist.", "Name one that does.")
        for option, file in self.tls_files:
            if not file.is_file():
                raise UsageError(f"{option}: {file} is not a file.", "Name a file in PEM.")
            if self.tls_cert is None:
                raise UsageError(f"{option} needs --tls-cert.", "Name the certificate that the service presents.")
        for option, folder in (
            ("--models-dir", self.models_dir),
            ("--hf-cache", self.hf_cache),
            ("--state-dir", self.state_dir),
        ):
            if folder is not None and folder.exists() and not folder.is_dir():
                raise UsageError(f"{option}: {folder} is a file.", "Name a folder.")
        if self.models_dir is not None and self.hf_cache is not None and self.models_dir == self.hf_cache:
            raise UsageError("--models-dir and --hf-cache name the same folder.", "Give each its own.")

    def _check_replicas(self) -> None:
        if self.replicas < 1:
            raise UsageError(f"--replicas: {self.replicas} is too few.", "Use 1, or more for several containers.")
        if self.replicas == 1:
            return
        if self.runtime is RuntimeKind.PROCESS:
            raise several_processes(self.replicas)
        if self.port and self.port + self.replicas - 1 > _LAST_PORT:
            raise UsageError(
                f"--replicas: {self.replicas} ports from {self.port} on are more than there are.",
                f"Use --port {_LAST_PORT + 1 - self.replicas} or lower; 0 for any free ones.",
            )
        if len(self.name) > _LONGEST_NAME:
            raise UsageError(
                f"--name: {self.name!r} is too long for --replicas, which find each other by it.",
                f"Use {_LONGEST_NAME} characters at most.",
            )

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """`zmq_endpoint`, parsed, with absolute paths of files. Raises UsageError."""
        try:
            endpoints = parse_optional_endpoints(self.zmq_endpoint)
        except ValueError as error:
            raise UsageError(
                f"--zmq-endpoint: {error}.", "Example: tcp://10.0.0.7:5557,replay=tcp://10.0.0.7:5558"
            ) from None
        return tuple(
            replace(one, curve=absolute(one.curve, "--zmq-endpoint")) if one.curve not in {None, "*"} else one
            for one in endpoints
        )

    @property
    def tls(self) -> bool:
        """Whether the service listens for HTTPS."""
        return self.tls_cert is not None

    @property
    def tls_files(self) -> tuple[tuple[str, Path], ...]:
        """The files of TLS with the options that name them."""
        files = (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key), ("--tls-client-ca", self.tls_client_ca))
        return tuple((option, path) for option, path in files if path is not None)

    @property
    def settings(self) -> dict[str, str]:
        """`environment`, with absolute paths of files. Raises UsageError."""
        given = {
            name: absolute(value.strip(), name) if name in FILE_SETTINGS and value.strip() else value
            for name, value in self.environment.items()
        }
        if given.get("SHARED_STATE", "").strip():
            files_moved = moved(given["SHARED_STATE"], lambda host: host, lambda file: absolute(file, "SHARED_STATE"))
            given["SHARED_STATE"] = files_moved
        return given

    @property
    def named_files(self) -> tuple[NamedFile, ...]:
        """The files and folders that settings, endpoints, pods and their sources name. Raises UsageError."""
        settings = self.settings
        store = parse_shared_state(settings.get("SHARED_STATE", ""))
        return (
            *(NamedFile(name, Path(settings[name])) for name in FILE_SETTINGS if settings.get(name, "").strip()),
            *(
                NamedFile(f"--zmq-endpoint {one.address}, curve", Path(one.curve), may_be_folder=one.binds)
                for one in self.endpoints
                if one.curve not in {None, "*"}
            ),
            *(NamedFile(f"--pod {pod.url}, key_file", Path(pod.key_file)) for pod in self.pod_entries if pod.key_file),
            *(NamedFile("--discovery", Path(file)) for source in self.sources for file in source.files),
            *(
                NamedFile(f"SHARED_STATE, {option}", Path(file))
                for option, file in (store.files if store else {}).items()
            ),
        )

    @property
    def follows_containers(self) -> bool:
        """Whether the engines in containers of the runtime are pods."""
        return any(source.kind == CONTAINERS for source in self.sources)

    @property
    def forwards(self) -> bool:
        """Whether requests go to pods that the options or their sources name."""
        named = self.pod_entries or self.sources or self.environment.get("PODS_FILE", "").strip()
        return bool(named) or any(endpoint.url for endpoint in self.endpoints)

    @property
    def model_is_of_pods(self) -> bool:
        """Whether requests that name no model get one that the pods serve, since none was named here."""
        return self.forwards and not self.names_model

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines reach the service without key and client certificate."""
        keys = any(self.environment.get(name, "").strip() for name in ("API_KEYS", "API_KEYS_FILE"))
        return not keys and self.tls_client_ca is None and not ip_address(self.publish_address).is_loopback

    @property
    def metrics_port(self) -> int | None:
        """The port of METRICS_PORT, if it is set."""
        return Settings.from_environment(
            {name: value for name, value in self.environment.items() if name == "METRICS_PORT"}
        ).metrics_port

    @property
    def stop_seconds(self) -> int:
        """The time after which a service that is stopped is killed: ten seconds more than DRAIN_TIMEOUT."""
        given = {name: value for name, value in self.environment.items() if name == "DRAIN_TIMEOUT"}
        return STOP_SECONDS + int(Settings.from_environment(given).drain_timeout)

    @property
    def pod_entries(self) -> tuple[PodEntry, ...]:
        """`pods`, parsed, with absolute paths of files. Raises UsageError."""
        try:
            pods = parse_pods(self.pods)
        except ValueError as error:
            raise UsageError(f"--pod: {error}.", "Example: http://10.0.0.7:8000,name=a") from None
        return tuple(replace(pod, key_file=absolute(pod.key_file, "--pod")) if pod.key_file else pod for pod in pods)

    @property
    def sources(self) -> tuple[SourceEntry, ...]:
        """`discovery`, parsed, with absolute paths of files. Raises UsageError."""
        try:
            sources = parse_discovery(self.discovery)
        except ValueError as error:
            raise UsageError(f"--discovery: {error}.", "Example: file:pods.yaml") from None
        return tuple(
            source.with_files({file: absolute(file, "--discovery") for file in source.files}) for source in sources
        )


def absolute(path: str | Path, option: str) -> str:
    """The path from this command's working directory, with a leading ~ or ~USER replaced.

    The service may run in another directory. Raises UsageError.
    """
    return str(expanded(Path(path), option).absolute())


def expanded(path: Path, option: str) -> Path:
    """The path with a leading ~ or ~USER replaced, which the shell leaves in --option=~/path. Raises UsageError."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{option}: {path} names a user who does not exist.", "Write the whole path.") from None


def _check_url(hub: str) -> None:
    try:
        url = urlsplit(hub)
        valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"--hf-endpoint: {hub!r} is not a URL.", "Example: https://huggingface.co")


def several_processes(count: int) -> UsageError:
    """The problem of --replicas without a container runtime."""
    return UsageError(
        f"--replicas: {count} need containers, and a child process is one.",
        f"Use --runtime podman or docker; or several workers in one service: --env WORKERS={count}",
    )


def check_name(name: str) -> None:
    """Raises UsageError for a name that a runtime would reject."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name: {name!r} is not a valid name.", "Use letters, digits, and - _ . after the first.")


def parse_environment(pairs: Iterable[str], host: Mapping[str, str]) -> dict[str, str]:
    """Parses KEY=VALUE, or KEY for its value on this host; raises UsageError for a variable that has its own option."""
    environment = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"--env: {pair!r} is not KEY=VALUE.", "Example: --env LOG_FORMAT=json")
        if name in _RESERVED:
            raise UsageError(f"--env: {name} is not given this way.", f"Use {_RESERVED[name]}.")
        if not equals and name not in host:
            raise UsageError(f"--env: {name} is not set here.", f"Give a value: --env {name}=VALUE")
        environment[name] = value if equals else host[name]
        _check_setting(name, environment[name])
    return environment


def read_environment_file(path: Path) -> list[str]:
    """The KEY=VALUE lines of a file in Docker's --env-file format: no quotes, # for a comment. Raises UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--env-file: {path} cannot be read: {error}.", "Name a file of KEY=VALUE lines.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _check_setting(name: str, value: str) -> None:
    """Raises UsageError for a value that the service would reject, or a name that looks mistyped."""
    known = [setting.name.upper() for setting in fields(Settings)]
    if name in known:
        try:
            Settings.from_environment({name: value})
        except SettingsError as error:
            raise UsageError(f"--env: {error}.", "docs/settings.md lists what each setting takes.") from None
    elif similar := get_close_matches(name.upper(), known, 1, _SIMILAR):
        raise UsageError(f"--env: {name} is not a setting of the service.", f"Did you mean {similar[0]}?")


def parse_memory(text: str) -> int:
    """Parses 512m, 2g, 1.5GiB or 1073741824 to bytes, and none to 0; raises UsageError."""
    if text.strip().lower() == "none":
        return 0
    try:
        return parse_size(text, _LEAST_MEMORY)
    except ValueError as error:
        raise UsageError(f"--memory: {text!r} is not valid: it {error}.", "Examples: 512m, 2g, none") from None


DEFAULTS = Launch()
