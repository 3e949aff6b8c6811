"""The examples at the end of each command's help."""

from __future__ import annotations

from collections.abc import Mapping

EXIT_CODES = "Exit codes: 0 success, 1 failure, 2 wrong usage, 130 Ctrl+C where nothing had to be stopped."

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "up": (
        "kvcache up --pod http://10.0.0.7:8000 --pod http://10.0.0.8:8000",
        "kvcache up --detach --restart unless-stopped --discover containers",
        "kvcache up --zmq-endpoint 'tcp://10.0.0.7:5557,replay=tcp://10.0.0.7:5558'",
        "kvcache up --runtime process --model builtin/demo",
    ),
    "render": (
        "kvcache render compose --pod http://10.0.0.7:8000 > compose.yaml",
        "kvcache render kubernetes --discovery kubernetes:llm/app=vllm --namespace llm | kubectl apply -f -",
    ),
    "down": ("kvcache down", "kvcache down --all"),
    "stop": ("kvcache stop",),
    "start": ("kvcache start",),
    "restart": ("kvcache restart",),
    "discover": ("kvcache discover",),
    "prune": ("kvcache prune",),
    "logs": ("kvcache logs --follow", "kvcache logs --since 10m --tail 100"),
    "status": ("kvcache status", "kvcache status NAME", "kvcache status --json"),
    "doctor": ("kvcache doctor --pod http://10.0.0.7:8000", "kvcache doctor --runtime podman --json"),
    "demo": ("kvcache demo", "kvcache demo --requests 1000 --json"),
    "score": ("kvcache score 'When does the ferry leave?'", "kvcache score --chat request.json --model org/model"),
    "select": ("kvcache select --chat request.json",),
    "top": ("kvcache top", "kvcache top --once --json"),
}
"""By command; those of the service half have their own help."""


def epilog(command: str) -> str:
    """The text after a command's options."""
    lines = "\n".join(f"  {example}" for example in EXAMPLES[command])
    return f"\b\nExamples:\n{lines}"
