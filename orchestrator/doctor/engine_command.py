"""The command line with which an engine publishes all that the service follows.

Sources: vLLM 0.33 (KVEventsConfig, `--enable-prompt-tokens-details`), SGLang 0.5.23 (`--kv-events-config`,
`--enable-cache-report`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from service.contract.endpoints import host_port
from service.contract.examined import Examined
from service.contract.pods import PodEntry

_FIRST_PORT = 5557


def engine_command(pod: PodEntry, examined: Examined, number: int, default_model: str) -> str:
    """The command line of an engine, with its own model and ports as far as it tells them.

    `number` counts the engines on one host, whose event ports must differ; `default_model` is that of an engine that
    does not answer.
    """
    model = next(iter(examined.models), pod.model or default_model)
    files = examined.root or model
    events = _event_options(pod, examined, number, model)
    if examined.engine == "sglang":
        words = ["python", "-m", "sglang.launch_server", "--model-path", files, "--port", str(pod.port)]
        named = ["--served-model-name", model] if model != files else []
        return shlex.join([*words, *named, "--enable-cache-report", "--kv-events-config", json.dumps(events)])
    words = ["vllm", "serve", files, "--port", str(pod.port)]
    named = ["--served-model-name", model] if model != files else []
    config = json.dumps({"enable_kv_cache_events": True, **events})
    return shlex.join([*words, *named, "--enable-prompt-tokens-details", "--kv-events-config", config])


def _event_options(pod: PodEntry, examined: Examined, number: int, model: str) -> Mapping[str, str]:
    """Each rank adds its number to both ports."""
    ranks = max(1, len(examined.sources))
    first = examined.sources[0] if examined.sources else None
    told = host_port(first.address) if first is not None else None
    port = told.port if told is not None and told.port else _FIRST_PORT + 2 * ranks * number
    told = host_port(first.replay) if first is not None and first.replay else None
    replay = told.port if told is not None and told.port else port + ranks
    host = f"[{pod.host}]" if ":" in pod.host else pod.host
    return {
        "publisher": "zmq",
        "topic": f"kv@{host}:{pod.port}@{model}",
        "endpoint": f"tcp://*:{port}",
        "replay_endpoint": f"tcp://*:{replay}",
    }
