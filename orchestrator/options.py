"""The commands' options: names, environment variables, meanings. A flag beats its variable, that the default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.engines.base import EngineKind
from orchestrator.errors import UsageError

_WHAT, _IMAGE, _SERVICE, _RUN = "Where it runs", "Image", "Service", "How it runs"


Engine = Annotated[
    str,
    typer.Option(
        envvar="KVCACHE_ENGINE",
        help="auto, podman, docker, or process (a child process, no container). auto takes the first that answers.",
        rich_help_panel=_WHAT,
    ),
]
Name = Annotated[
    str, typer.Option(envvar="KVCACHE_NAME", help="Name of the container or process.", rich_help_panel=_WHAT)
]
OneEngine = Annotated[
    str,
    typer.Option(envvar="KVCACHE_ENGINE", help="Look only at auto (all that answer), podman, docker or process."),
]
Port = Annotated[
    int,
    typer.Option(
        "--port", "-p", envvar="HTTP_PORT", min=1, max=65535, help="Port of the HTTP endpoints.", rich_help_panel=_WHAT
    ),
]
PublishAddress = Annotated[
    str,
    typer.Option(
        envvar="KVCACHE_PUBLISH_ADDRESS",
        help="Address of this machine on which ports are published; 0.0.0.0 for all.",
        rich_help_panel=_WHAT,
    ),
]
Image = Annotated[
    str, typer.Option(envvar="KVCACHE_IMAGE", help="Name of the image that is built and run.", rich_help_panel=_IMAGE)
]
BaseImage = Annotated[
    str,
    typer.Option(
        envvar="KVCACHE_BASE_IMAGE", help="Image to build on: Linux with Python 3.11 or newer.", rich_help_panel=_IMAGE
    ),
]
CaBundle = Annotated[
    Path | None,
    typer.Option(
        envvar=["KVCACHE_CA_BUNDLE", "SSL_CERT_FILE"],
        help="Certificates (PEM) to trust beside the image's own, while building and serving.",
        rich_help_panel=_IMAGE,
    ),
]
Build = Annotated[
    bool | None,
    typer.Option(
        "--build/--no-build",
        envvar="KVCACHE_BUILD",
        help="Build even if nothing changed, or never build.",
        show_default="build what changed",
        rich_help_panel=_IMAGE,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        envvar="MODEL_NAME",
        help="Model of requests that name none; builtin/demo needs no hub.",
        rich_help_panel=_SERVICE,
    ),
]
ModelsDir = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_MODELS_DIR",
        help="Folder of models on disk, as <org>/<name>/tokenizer.json; mounted read-only.",
        rich_help_panel=_SERVICE,
    ),
]
HfCache = Annotated[
    Path | None,
    typer.Option(
        envvar="KVCACHE_HF_CACHE",
        help="Folder in which downloads from the hub are kept.",
        show_default="a volume kept between runs",
        rich_help_panel=_SERVICE,
    ),
]
ZmqEndpoint = Annotated[
    str,
    typer.Option(
        envvar="ZMQ_ENDPOINT",
        help="Where events come from: ADDRESS[,pod=…][,model=…][,replay=…], several separated by commas. "
        "localhost is this machine; tcp://*:PORT is bound, and published.",
        rich_help_panel=_SERVICE,
    ),
]
ZmqTopic = Annotated[
    str,
    typer.Option(envvar="ZMQ_TOPIC", help="Only topics that start with this.", rich_help_panel=_SERVICE),
]
PoolConcurrency = Annotated[
    int,
    typer.Option(
        envvar="POOL_CONCURRENCY", min=1, max=256, help="Workers that apply events.", rich_help_panel=_SERVICE
    ),
]
BlockSize = Annotated[
    int,
    typer.Option(envvar="BLOCK_SIZE", min=1, help="Tokens that count as a score of 1.", rich_help_panel=_SERVICE),
]
Environment = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        "-e",
        envvar="KVCACHE_ENV",
        metavar="KEY=VALUE",
        help="A further setting of the service (KEY alone: its value here). May be repeated.",
        rich_help_panel=_SERVICE,
    ),
]
Cpus = Annotated[
    float | None,
    typer.Option(envvar="KVCACHE_CPUS", min=0.01, help="Most CPUs it may use.", rich_help_panel=_RUN),
]
Memory = Annotated[
    str | None,
    typer.Option(envvar="KVCACHE_MEMORY", help="Most memory it may use, such as 2g.", rich_help_panel=_RUN),
]
Timeout = Annotated[
    float,
    typer.Option(envvar="KVCACHE_TIMEOUT", min=0.1, help="Seconds to wait until it is healthy.", rich_help_panel=_RUN),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", "-d", envvar="KVCACHE_DETACH", help="Return once it is healthy.", rich_help_panel=_RUN),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", envvar="KVCACHE_QUIET", help="Say only what went wrong.", rich_help_panel=_RUN),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", envvar="KVCACHE_DEBUG", help="Show tracebacks.", rich_help_panel=_RUN),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


def engine_kind(text: str) -> EngineKind | None:
    """The engine that --engine names; None for auto."""
    if text == "auto":
        return None
    try:
        return EngineKind(text)
    except ValueError:
        raise UsageError(f"--engine: {text!r} is no engine.", "Use auto, podman, docker or process.") from None
