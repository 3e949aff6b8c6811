"""A server that speaks the list and watch of Kubernetes' API on 127.0.0.1, as far as discovery asks for it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

PODS = "/api/v1/namespaces/llm/pods"
TOKEN = "secret"  # noqa: S105 - of a server that this test starts
SLICES = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"


class KubernetesApi:
    """Keeps objects of one kind, with the history of their changes since `compact` was last called."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.url = ""
        self.token = TOKEN
        self.page = 500
        self.status: int | None = None
        """Answers every request with it."""
        self.answers = asyncio.Event()
        """Requests wait until it is set: a server that starts slowly."""
        self.answers.set()
        self.lists = 0
        self.watched_from: list[int] = []
        """The version that each watch asked to continue from."""
        self.selectors: set[str] = set()
        self._version = 1
        self._oldest = 1
        self._objects: dict[str, dict[str, Any]] = {}
        self._history: list[tuple[int, dict[str, Any]]] = []
        self._changed = asyncio.Condition()
        self._watches: set[web.StreamResponse] = set()
        self._closing = False

    async def put(self, name: str, **parts: Any) -> None:
        kind = "MODIFIED" if name in self._objects else "ADDED"
        metadata = {**parts.pop("metadata", {}), "name": name}
        await self._note(kind, {"metadata": metadata, **parts})

    async def delete(self, name: str) -> None:
        await self._note("DELETED", self._objects[name])

    async def bookmark(self) -> None:
        await self._note("BOOKMARK", {"metadata": {}})

    async def compact(self) -> None:
        """Forgets the history: who asks for older versions gets 410."""
        self._oldest = self._version = self._version + 1
        self._history.clear()
        await self.wake()

    async def error(self, code: int) -> None:
        """Ends the open watches with an error event."""
        await self._note("ERROR", {"code": code, "message": "too old resource version"})

    def break_watches(self) -> None:
        """Breaks the connections of the open watches within a line."""
        for response in self._watches:
            assert response._req is not None
            assert response._req.transport is not None
            response._req.transport.write(b"20\r\n" + b'{"type":"MODIFIED","object":{"me')
            response._req.transport.close()

    async def close(self) -> None:
        self._closing = True
        self.answers.set()
        await self.wake()

    async def wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @property
    def watches(self) -> int:
        return len(self._watches)

    async def _note(self, kind: str, one: dict[str, Any]) -> None:
        self._version += 1
        one = {**one, "metadata": {**one.get("metadata", {}), "resourceVersion": str(self._version)}}
        if kind in {"ADDED", "MODIFIED"}:
            self._objects[one["metadata"]["name"]] = one
        elif kind == "DELETED":
            del self._objects[one["metadata"]["name"]]
        self._history.append((self._version, {"type": kind, "object": one}))
        await self.wake()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.selectors.add(request.query["labelSelector"])
        await self.answers.wait()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"message": "Unauthorized", "code": 401}, status=401)
        if self.status is not None:
            message = f'pods is forbidden: User "kvcache" cannot list resource "pods" ({self.status})'
            return web.json_response({"message": message, "code": self.status}, status=self.status)
        if request.query.get("watch") == "1":
            return await self._watch(request, int(request.query["resourceVersion"]))
        self.lists += 1
        begin = int(request.query.get("continue", "0"))
        names = sorted(self._objects)
        page = [self._objects[name] for name in names[begin : begin + self.page]]
        metadata = {"resourceVersion": str(self._version)}
        if begin + self.page < len(names):
            metadata["continue"] = str(begin + self.page)
        return web.json_response({"kind": "List", "metadata": metadata, "items": page})

    async def _watch(self, request: web.Request, version: int) -> web.StreamResponse:
        self.watched_from.append(version)
        if version < self._oldest:
            return web.json_response({"message": "too old resource version", "code": 410}, status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._watches.add(response)
        try:
            while not self._closing:
                for at, event in list(self._history):
                    if at > version:
                        version = at
                        await response.write(json.dumps(event).encode() + b"\n")
                        if event["type"] == "ERROR":
                            return response
                async with self._changed:
                    if not any(at > version for at, _ in self._history) and not self._closing:
                        await self._changed.wait()
        except ConnectionError:
            pass
        finally:
            self._watches.discard(response)
        return response


@asynccontextmanager
async def kubernetes_api(path: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[KubernetesApi]:
    api = KubernetesApi(path)
    app = web.Application()
    app.router.add_get(path, api.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    api.url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


def kubeconfig(
    path: Path,
    server: str,
    token: str = TOKEN,
    *,
    cluster: Mapping[str, str] | None = None,
    user: Mapping[str, str] | None = None,
) -> Path:
    """Writes a kubeconfig file for a server, with further fields of its cluster and user."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": token, **(user or {})}}],
    }
    path.write_text(json.dumps(config))
    return path


def pod(
    address: str | None = None,
    *,
    ready: bool = True,
    ports: dict[str, int] | None = None,
    phase: str = "Running",
    **metadata: Any,
) -> dict[str, Any]:
    """The parts of a Pod, with an API server's field names."""
    listed = [{"name": name, "containerPort": number} for name, number in (ports or {"http": 8000}).items()]
    status: dict[str, Any] = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    if address is not None:
        status["podIP"] = address
    return {"metadata": metadata, "spec": {"containers": [{"name": "vllm", "ports": listed}]}, "status": status}


def endpoint_slice(
    *endpoints: dict[str, Any], ports: dict[str, int] | None = None, kind: str = "IPv4"
) -> dict[str, Any]:
    """The parts of an EndpointSlice."""
    listed = [{"name": name, "port": number, "protocol": "TCP"} for name, number in (ports or {"": 8000}).items()]
    return {"addressType": kind, "endpoints": list(endpoints), "ports": listed}
