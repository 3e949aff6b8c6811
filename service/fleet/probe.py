"""Queries an engine for its models, event sources, health and metrics.

Sources: vLLM 0.33 (/kv_event_sources, /v1/models, /version), SGLang 0.5.23 (/server_info, key kv_events).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from service.contract.containers import HOST_NAME
from service.contract.endpoints import Endpoint, is_loopback
from service.fleet.registry import EngineKind, Learned, Pod, ServedModel

_HOSTS = Path("/etc/hosts")
_ANY_HOST = re.compile(r"tcp://(\*|0\.0\.0\.0|\[::\]|::):")


class ProbeFailed(Exception):
    """The engine does not answer, or not as an OpenAI server; the text says which."""


class Probe:
    """A client for engines' own endpoints. Methods raise ProbeFailed."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """`session` has the timeout of one request."""
        self._session = session

    async def learn(self, pod: Pod) -> Learned:
        """Models, event sources and ranks of an engine. Unsupported endpoints (404) leave their part empty."""
        models = await self.models(pod)
        base = next((model.id for model in models if model.parent is None), pod.entry.model)
        sources = await self._json(pod, "/kv_event_sources", optional=True)
        info = None if sources is not None else await self._json(pod, "/server_info", optional=True)
        info = info if isinstance(info, dict) else None
        version = await self._json(pod, "/version", optional=True)
        if isinstance(sources, dict):
            endpoints = _vllm_sources(pod, sources, base)
        else:
            endpoints = _sglang_sources(pod, info or {}, base)
        return Learned(
            models=models,
            sources=endpoints,
            ranks=max(1, len(endpoints)),
            event_names=_event_names(sources if isinstance(sources, dict) else {}),
            version=_text((version if isinstance(version, dict) else info or {}).get("version")),
            engine=_kind(sources, info, version),
            tells_sources=isinstance(sources, dict) or (info is not None and "kv_events" in info),
        )

    async def models(self, pod: Pod) -> tuple[ServedModel, ...]:
        """The models and LoRA adapters of an engine, and the configured one."""
        listed = await self._json(pod, "/v1/models")
        if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
            raise ProbeFailed("/v1/models does not list models")
        models = tuple(_model(card) for card in listed["data"] if isinstance(card, dict) and card.get("id"))
        if pod.entry.model and all(model.id != pod.entry.model for model in models):
            models = (*models, ServedModel(pod.entry.model))
        return models

    async def check_health(self, pod: Pod) -> None:
        """Raises ProbeFailed unless GET /health returns 200."""
        status, _ = await self._get(pod, "/health")
        if status != 200:
            raise ProbeFailed(f"/health is answered with {status}")

    async def metrics(self, pod: Pod) -> bytes:
        """The body of GET /metrics; empty for an engine without it."""
        status, body = await self._get(pod, "/metrics")
        return body if status == 200 else b""

    async def _json(self, pod: Pod, path: str, *, optional: bool = False) -> Any:
        status, body = await self._get(pod, path)
        if status != 200:
            if optional and status in {404, 405, 501}:
                return None
            raise ProbeFailed(f"{path} is answered with {status}")
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ProbeFailed(f"{path} is not answered with JSON") from None

    async def _get(self, pod: Pod, path: str) -> tuple[int, bytes]:
        headers = {"Accept-Encoding": "identity"}  # a busy engine need not compress
        if pod.key:
            headers["Authorization"] = f"Bearer {pod.key}"
        try:
            async with self._session.get(pod.entry.url + path, headers=headers) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = f"{path}: {error or type(error).__name__}"
            if isinstance(error, aiohttp.ClientConnectorError) and is_loopback(pod.entry.host) and is_in_container():
                reason += (
                    f"; inside a container, {pod.entry.host} is the container itself, "
                    f"and the machine around it is {HOST_NAME}"
                )
            raise ProbeFailed(reason) from None


def is_in_container(hosts: Path = _HOSTS) -> bool:
    """Whether the machine around this container has a name here: one that Podman, `kvcache up` and Compose give."""
    try:
        return HOST_NAME in hosts.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def _kind(sources: object, info: object, version: object) -> EngineKind | None:
    """Which engine has these endpoints; vLLM before 0.32 has /version alone."""
    if isinstance(sources, dict):
        return EngineKind.VLLM
    if info is not None:
        return EngineKind.SGLANG
    return EngineKind.VLLM if isinstance(version, dict) else None


def _model(card: Mapping[str, Any]) -> ServedModel:
    return ServedModel(
        str(card["id"]),
        _text(card.get("root")),
        _text(card.get("parent")),
        card["max_model_len"] if isinstance(card.get("max_model_len"), int) else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _vllm_sources(pod: Pod, sources: Mapping[str, Any], model: str | None) -> tuple[Endpoint, ...]:
    found = []
    for source in sources.values():
        if not isinstance(source, dict) or source.get("publisher") != "zmq" or not source.get("endpoint"):
            continue
        replay = source.get("replay_endpoint")
        found.append(
            Endpoint(
                _reachable(pod, str(source["endpoint"])),
                pod=pod.name,
                model=model,
                replay=_reachable(pod, str(replay)) if replay else None,
            )
        )
    return tuple(found)


def _event_names(sources: Mapping[str, Any]) -> frozenset[str]:
    """The pod names in topics of the form `kv@POD@MODEL`."""
    topics = (str(source.get("topic") or "") for source in sources.values() if isinstance(source, dict))
    return frozenset(topic.split("@")[1] for topic in topics if topic.startswith("kv@") and topic.count("@") > 1)


def _sglang_sources(pod: Pod, info: Mapping[str, Any], model: str | None) -> tuple[Endpoint, ...]:
    events = info.get("kv_events")
    if not isinstance(events, dict) or not isinstance(port := events.get("endpoint_port_base"), int):
        return ()
    host, replay = events.get("endpoint_host") or "*", events.get("replay_endpoint_port_base")
    return tuple(
        Endpoint(
            _reachable(pod, f"tcp://{host}:{port + rank}"),
            pod=pod.name,
            model=model,
            replay=_reachable(pod, f"tcp://{host}:{replay + rank}") if isinstance(replay, int) else None,
        )
        for rank in range(max(1, int(events.get("dp_size") or 1)))
    )


def _reachable(pod: Pod, address: str) -> str:
    """Replaces a wildcard host in the address with the host of the pod's URL."""
    host = f"[{pod.entry.host}]" if ":" in pod.entry.host else pod.entry.host
    return _ANY_HOST.sub(f"tcp://{host}:", address)
