"""The options of the commands, each declared once. Precedence: flag, environment variable, kvcache.toml, default."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from orchestrator import completion
from orchestrator.errors import UsageError
from orchestrator.host.hub_token import find_token
from orchestrator.launch import (
    DEFAULTS,
    RESTART_POLICIES,
    Launch,
    expanded,
    parse_environment,
    parse_memory,
    read_environment_file,
)
from orchestrator.runtimes.base import RuntimeKind
from service.contract.units import parse_seconds

# The second names are aliases for one release.
_RUNTIME_FLAGS = ("--runtime", "--engine")
_RUNTIME_VARIABLES = ["KVCACHE_RUNTIME", "KVCACHE_ENGINE"]

Runtime = Annotated[
    str,
    typer.Option(
        *_RUNTIME_FLAGS,
        envvar=_RUNTIME_VARIABLES,
        autocompletion=completion.runtimes,
        help="auto, podman, docker, or process (a child process, no container). auto takes the first that answers. "
        "--engine is the old name.",
    ),
]
Name = Annotated[
    str,
    typer.Option(envvar="KVCACHE_NAME", help="Name of the container or process.", autocompletion=completion.services),
]
Named = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help="The same as --name.", show_default=False, autocompletion=completion.services
    ),
]
OnlyName = Annotated[
    str | None,
    typer.Option("--name", help="Show only this one.", show_default="all", autocompletion=completion.services),
]
OneRuntime = Annotated[
    str,
    typer.Option(
        *_RUNTIME_FLAGS,
        envvar=_RUNTIME_VARIABLES,
        autocompletion=completion.runtimes,
        help="Look only at auto (all that answer), podman, docker or process.",
    ),
]
Port = Annotated[
    int,
    typer.Option(
        "--port",
        "-p",
        envvar="HTTP_PORT",
        min=0,
        max=65535,
        help="Port of the HTTP endpoints, and the first of several replicas; 0: any that is free.",
    ),
]
PublishAddress = Annotated[
    str,
    typer.Option(
        envvar="KVCACHE_PUBLISH_ADDRESS",
        help="Address of this machine on which ports are published; 0.0.0.0 for all.",
    ),
]
Image = Annotated[str, typer.Option(envvar="KVCACHE_IMAGE", help="Name of the image that is built and run.")]
BaseImage = Annotated[
    str,
    typer.Option(envvar="KVCACHE_BASE_IMAGE", help="Image to build on: Linux with Python 3.11 or newer."),
]
CaBundle = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_CA_BUNDLE",
        help="Certificates (PEM) to trust beside the image's own, while building and serving; "
        "those of SSL_CERT_FILE if left out.",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_TLS_CERT",
        help="Certificate with its chain, in PEM: HTTPS instead of HTTP. Read again when it changes.",
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(envvar="KVCACHE_TLS_KEY", help="Key of --tls-cert, if that file does not hold it."),
]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_TLS_CLIENT_CA",
        help="Authorities of client certificates; only /health and /ready answer without one.",
    ),
]
Wheel = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_WHEEL",
        help="Wheel of kvcache, or folder of wheels, whose compiled loops the image takes: no compiler is installed.",
        show_default="those in wheels/ of a checkout",
    ),
]
Build = Annotated[
    bool | None,
    typer.Option(
        "--build/--no-build",
        envvar="KVCACHE_BUILD",
        help="Build even if nothing changed, or never build.",
        show_default="build what changed",
    ),
]
Pull = Annotated[
    bool,
    typer.Option("--pull", envvar="KVCACHE_PULL", help="Build on the newest base image of that name."),
]
Model = Annotated[
    str | None,
    typer.Option(
        envvar="MODEL_NAME",
        help="Model of requests that name none; builtin/demo needs no hub.",
        show_default=f"{DEFAULTS.model}, or with pods what they serve",
    ),
]
ModelsDir = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_MODELS_DIR",
        help="Folder of models on disk, as <org>/<name>/tokenizer.json; mounted read-only.",
    ),
]
HfCache = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_HF_CACHE",
        help="Folder in which downloads from the hub are kept.",
        show_default="a volume kept between runs",
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_STATE_DIR",
        help="Folder for snapshots of the index, from which the service continues when it starts again.",
        show_default="a volume of the service; none without a container",
    ),
]
HfEndpoint = Annotated[
    str,
    typer.Option(envvar="HF_ENDPOINT", help="Address of the hub, or of a mirror of it."),
]
ZmqEndpoint = Annotated[
    str | None,
    typer.Option(
        envvar="ZMQ_ENDPOINT",
        show_default=f"{DEFAULTS.zmq_endpoint}, or none with --pod or --discovery: pods name theirs",
        help="Where events come from: ADDRESS[,pod=…][,model=…][,replay=…] and further options of the setting "
        "ZMQ_ENDPOINT, several separated by commas. localhost is this machine; tcp://*:PORT is bound, and published.",
    ),
]
Pods = Annotated[
    list[str] | None,
    typer.Option(
        "--pod",
        envvar="PODS",
        metavar="URL",
        help="An engine to forward requests to, such as http://10.0.0.7:8000; its models, ranks and events are asked "
        "for. Options after it: [,name=…][,events=…][,replay=…][,model=…][,key_file=…]. May be repeated.",
        show_default=False,
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--discovery",
        "--discover",
        envvar="DISCOVERY",
        autocompletion=completion.sources,
        metavar="SOURCE",
        help="Where further engines are found, and followed as they come and go: file:PATH, dns:NAME:PORT, "
        "dns:_SERVICE._PROTOCOL.NAME for SRV records, kubernetes:NAMESPACE/SELECTOR, or containers (those of the same "
        "Podman or Docker). May be repeated.",
        show_default=False,
    ),
]
Renderers = Annotated[
    list[str] | None,
    typer.Option(
        "--renderer",
        envvar="RENDERERS",
        metavar="MODEL=NAME",
        help="Renderer of a model's prompts: template, harmony, mistral, or engine. May be repeated.",
        show_default="by parity and the model's files",
    ),
]
ZmqTopic = Annotated[
    str,
    typer.Option(envvar="ZMQ_TOPIC", help="Only topics that start with this."),
]
PoolConcurrency = Annotated[
    int,
    typer.Option(
        envvar="POOL_CONCURRENCY",
        min=1,
        max=256,
        help="Endpoints that are read before other work goes on.",
    ),
]
BlockSize = Annotated[
    int,
    typer.Option(envvar="BLOCK_SIZE", min=1, help="Tokens that count as a score of 1."),
]
Environment = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        "-e",
        envvar="KVCACHE_ENV",
        metavar="KEY=VALUE",
        help="A further setting of the service (KEY alone: its value here). May be repeated.",
    ),
]
EnvFile = Annotated[
    Path | None,
    typer.Option(envvar="KVCACHE_ENV_FILE", help="File of KEY=VALUE lines, as if each were given with --env."),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        envvar="KVCACHE_NETWORK",
        help="Network of the runtime to join, so that engines in its containers are reached by name. May be repeated.",
    ),
]
Replicas = Annotated[
    int,
    typer.Option(
        envvar="KVCACHE_REPLICAS",
        metavar="N",
        help="Containers of the service, on consecutive ports. Several meet at a Valkey that is started with them, or "
        "at that of --env SHARED_STATE=…",
    ),
]
ValkeyImage = Annotated[
    str | None,
    typer.Option(
        envvar="KVCACHE_VALKEY_IMAGE",
        help="Image of that Valkey, such as docker.io/valkey/valkey:9; of Redis, too.",
        show_default="one that is built on the base image",
    ),
]
Restart = Annotated[
    str,
    typer.Option(
        envvar="KVCACHE_RESTART",
        autocompletion=lambda incomplete: [one for one in RESTART_POLICIES if one.startswith(incomplete)],
        help="What the runtime does when a detached service ends: no, on-failure, always or unless-stopped.",
    ),
]
Cpus = Annotated[
    float | None,
    typer.Option(envvar="KVCACHE_CPUS", min=0.01, help="Most CPUs it may use."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        envvar="KVCACHE_MEMORY",
        help="Most memory it may use, such as 2g; none for no limit.",
        show_default="4g in a container",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(envvar="KVCACHE_TIMEOUT", min=0.1, help="Seconds to wait until it is healthy."),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", "-d", envvar="KVCACHE_DETACH", help="Return once it is healthy."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", envvar="KVCACHE_QUIET", help="Say only what went wrong."),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", envvar="KVCACHE_DEBUG", help="Show tracebacks."),
]
Url = Annotated[str | None, typer.Option(envvar="KVCACHE_URL", help="Address of the service, instead of a name.")]
PromptText = Annotated[str | None, typer.Argument(help="A text.")]
ChatFile = Annotated[Path | None, typer.Option(help="A chat request in JSON, from a file or - instead.")]
AskedModel = Annotated[str | None, typer.Option(help="A model, or a LoRA; the service's own if left out.")]
LoraName = Annotated[str | None, typer.Option(help="The LoRA adapter that the request is for.")]
CacheSalt = Annotated[str | None, typer.Option(help="What the engine salts the blocks with.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


def runtime_kind(text: str) -> RuntimeKind | None:
    """The runtime that --runtime names; None for auto."""
    if text == "auto":
        return None
    try:
        return RuntimeKind(text)
    except ValueError:
        raise UsageError(f"--runtime: {text!r} is not a runtime.", "Use auto, podman, docker or process.") from None


def seconds(text: str | None, option: str) -> float | None:
    """Parses a duration such as 60, 60s or 5m to seconds; None stays None. Raises UsageError."""
    try:
        return None if text is None else parse_seconds(text)
    except ValueError as error:
        raise UsageError(f"{option}: {text!r} {error}.", "Give a time above zero.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """The unchecked options of `kvcache up`."""

    runtime: Runtime = "auto"
    name: Name = DEFAULTS.name
    port: Port = DEFAULTS.port
    publish_address: PublishAddress = DEFAULTS.publish_address
    image: Image = DEFAULTS.image
    base_image: BaseImage = DEFAULTS.base_image
    ca_bundle: CaBundle = None
    tls_cert: TlsCert = None
    tls_key: TlsKey = None
    tls_client_ca: TlsClientCa = None
    wheel: Wheel = None
    build: Build = None
    pull: Pull = False
    model: Model = None
    models_dir: ModelsDir = None
    hf_cache: HfCache = None
    state_dir: StateDir = None
    hf_endpoint: HfEndpoint = DEFAULTS.hf_endpoint
    pod: Pods = None
    discovery: Sources = None
    renderer: Renderers = None
    zmq_endpoint: ZmqEndpoint = None
    zmq_topic: ZmqTopic = DEFAULTS.zmq_topic
    pool_concurrency: PoolConcurrency = DEFAULTS.pool_concurrency
    block_size: BlockSize = DEFAULTS.block_size
    env: Environment = None
    env_file: EnvFile = None
    network: Networks = None
    cpus: Cpus = None
    memory: Memory = None
    replicas: Replicas = DEFAULTS.replicas
    valkey_image: ValkeyImage = None
    timeout: Timeout = DEFAULTS.timeout
    restart: Restart = DEFAULTS.restart
    detach: Detach = False

    def launch(self, named: str | None = None, **replaced: Any) -> Launch:
        """Returns the checked options, with this machine's Hugging Face token if it exists; `named` wins over --name.

        Raises UsageError.
        """
        env_file = expanded(self.env_file, "--env-file") if self.env_file else None
        environment = parse_environment(
            [*(read_environment_file(env_file) if env_file else ()), *(self.env or ())], os.environ
        )
        default_endpoint = "" if self.pod or self.discovery or "PODS_FILE" in environment else DEFAULTS.zmq_endpoint
        checked = {
            "runtime": runtime_kind(self.runtime),
            "model": DEFAULTS.model if self.model is None else self.model,
            "names_model": self.model is not None,
            "environment": environment,
            "zmq_endpoint": default_endpoint if self.zmq_endpoint is None else self.zmq_endpoint,
            "pods": ",".join(self.pod or ()),
            "discovery": ",".join(self.discovery or ()),
            "renderers": ",".join(self.renderer or ()),
            "networks": tuple(self.network or ()),
            "memory": parse_memory(self.memory) if self.memory else None,
            "token": find_token(os.environ),
            "name": named or self.name,
        }
        folders = {
            name: expanded(path, f"--{name.replace('_', '-')}") if (path := getattr(self, name)) else None
            for name in (
                "models_dir",
                "hf_cache",
                "state_dir",
                "ca_bundle",
                "tls_cert",
                "tls_key",
                "tls_client_ca",
                "wheel",
            )
        }
        read = ("env", "env_file", "network", "pod", "discovery", "renderer")
        as_given = {option.name: getattr(self, option.name) for option in fields(self) if option.name not in read}
        return Launch(**{**as_given, **folders, **checked, **replaced})


def launch_options(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Prepends the options of LaunchOptions to a command, which receives them as its first argument."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        types = get_type_hints(LaunchOptions, include_extras=True)
        shared = [
            Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=types[option.name])
            for option in fields(LaunchOptions)
            if option.name not in without
        ]
        _, *own = signature(command, eval_str=True).parameters.values()

        def run(**given: Any) -> None:
            options = LaunchOptions(**{option.name: given.pop(option.name) for option in shared})
            command(options, **given)

        # typer reads a command's options from its signature.
        run.__signature__ = Signature([*shared, *(one.replace(kind=Parameter.KEYWORD_ONLY) for one in own)])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate
