"""The commands' options: names, environment variables, meanings. A flag beats its variable, that the default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import UsageError
from orchestrator.runtimes.base import RuntimeKind

_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smh]?)")

# The second names are aliases for one release.
_RUNTIME_FLAGS = ("--runtime", "--engine")
_RUNTIME_VARIABLES = ["KVCACHE_RUNTIME", "KVCACHE_ENGINE"]

Runtime = Annotated[
    str,
    typer.Option(
        *_RUNTIME_FLAGS,
        envvar=_RUNTIME_VARIABLES,
        help="auto, podman, docker, or process (a child process, no container). auto takes the first that answers. "
        "--engine is the old name.",
    ),
]
Name = Annotated[str, typer.Option(envvar="KVCACHE_NAME", help="Name of the container or process.")]
OneRuntime = Annotated[
    str,
    typer.Option(
        *_RUNTIME_FLAGS,
        envvar=_RUNTIME_VARIABLES,
        help="Look only at auto (all that answer), podman, docker or process.",
    ),
]
Port = Annotated[
    int,
    typer.Option("--port", "-p", envvar="HTTP_PORT", min=1, max=65535, help="Port of the HTTP endpoints."),
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
        envvar=["KVCACHE_CA_BUNDLE", "SSL_CERT_FILE"],
        help="Certificates (PEM) to trust beside the image's own, while building and serving.",
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
Model = Annotated[
    str,
    typer.Option(
        envvar="MODEL_NAME",
        help="Model of requests that name none; builtin/demo needs no hub.",
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
HfEndpoint = Annotated[
    str,
    typer.Option(envvar="HF_ENDPOINT", help="Address of the hub, or of a mirror of it."),
]
ZmqEndpoint = Annotated[
    str,
    typer.Option(
        envvar="ZMQ_ENDPOINT",
        help="Where events come from: ADDRESS[,pod=…][,model=…][,replay=…], several separated by commas. "
        "localhost is this machine; tcp://*:PORT is bound, and published.",
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
Cpus = Annotated[
    float | None,
    typer.Option(envvar="KVCACHE_CPUS", min=0.01, help="Most CPUs it may use."),
]
Memory = Annotated[
    str | None,
    typer.Option(envvar="KVCACHE_MEMORY", help="Most memory it may use, such as 2g."),
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
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]


def runtime_kind(text: str) -> RuntimeKind | None:
    """The runtime that --runtime names; None for auto."""
    if text == "auto":
        return None
    try:
        return RuntimeKind(text)
    except ValueError:
        raise UsageError(f"--runtime: {text!r} is not a runtime.", "Use auto, podman, docker or process.") from None


def seconds(text: str | None) -> float | None:
    """Reads a time such as 60, 60s, 5m or 1h; None stays None."""
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    if match is None or float(match["number"]) == 0:
        raise UsageError(f"{text!r} is no time above zero.", "Examples: 30s, 5m, 1h")
    return float(match["number"]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match["unit"]]
