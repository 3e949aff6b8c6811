"""The compared gateways, each a separate process before the same engines: kvcache, and the peers that are installed.

Peers: `apt-get install nginx-light`, `pip install smg sglang-router vllm-router`, on PATH or in the folder
KVCACHE_BENCH_PEERS.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from scripts.bench.client import Refused
from scripts.bench.engines import BLOCK_SIZE
from scripts.bench.servers import Kvcache, Process, free_port, kvcache

_START_SECONDS = 60
_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000;
  client_max_body_size 64m;
  client_body_buffer_size 16m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream engines {{ {servers} keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


class Pod(NamedTuple):
    """An engine behind the gateways: its port, and where it publishes under an empty topic."""

    port: int
    events: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Gateway(NamedTuple):
    """A started gateway; `follows_events` if it looks at the engines' caches."""

    name: str
    process: Process
    follows_events: bool = False


class Peer(NamedTuple):
    """Another gateway: its command, and its arguments from the pods, its ports and the model."""

    name: str
    command: str
    arguments: Callable[[Sequence[Pod], int, int, str], Sequence[str]]
    follows_events: bool = False


def _launched(*first: str, policy: str) -> Callable[[Sequence[Pod], int, int, str], Sequence[str]]:
    def arguments(pods: Sequence[Pod], port: int, metrics_port: int, model: str) -> Sequence[str]:
        urls = (pod.url for pod in pods)
        listening = ("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port))
        patient = ("--worker-startup-check-interval", "1", "--max-concurrent-requests", "4096", "--log-level", "error")
        events: list[str] = []
        if policy == "kv_aware":
            events += ["--kv-event-model", model, "--kv-event-block-size", str(BLOCK_SIZE)]
            for pod in pods:
                events += ["--kv-event-source", f"{pod.url}={pod.events}"]
        return [*first, *listening, *patient, "--policy", policy, *events, "--worker-urls", *urls]

    return arguments


PEERS = (
    Peer("nginx", "nginx", lambda *_: ()),
    Peer("smg cache_aware", "smg", _launched("launch", policy="cache_aware")),
    Peer("sglang-router cache_aware", "sglang-router", _launched("launch", policy="cache_aware")),
    Peer("vllm-router kv_aware", "vllm-router", _launched(policy="kv_aware"), follows_events=True),
)


def installed(peer: Peer) -> str | None:
    """The path of a peer's command; None if it is not installed."""
    folder = os.environ.get("KVCACHE_BENCH_PEERS")
    return shutil.which(peer.command, path=os.pathsep.join(filter(None, (folder, os.environ.get("PATH"), "/usr/sbin"))))


@asynccontextmanager
async def gateways(pods: Sequence[Pod], model: str, **settings: str) -> AsyncIterator[list[Gateway]]:
    """Runs all gateways that are there, kvcache first; `settings` are kvcache's."""
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(ours(pods, model, **settings))]
        for peer in PEERS:
            if installed(peer):
                running.append(await stack.enter_async_context(theirs(peer, pods, model)))
        yield running


@asynccontextmanager
async def ours(pods: Sequence[Pod], model: str, **settings: str) -> AsyncIterator[Gateway]:
    """Runs kvcache before the pods, and waits until it forwards."""
    entries = ",".join(f"{pod.url},events={pod.events},model={model}" for pod in pods)
    async with kvcache((), model, MODEL_NAME=model, PODS=entries, **settings) as server:
        await _forwards(server, model)
        await _compared(server)
        yield Gateway("kvcache", server, follows_events=True)


@asynccontextmanager
async def theirs(peer: Peer, pods: Sequence[Pod], model: str) -> AsyncIterator[Gateway]:
    """Runs a peer before the pods, and waits until it forwards."""
    command, port = installed(peer) or peer.command, free_port()
    with TemporaryDirectory(prefix="kvcache-bench-") as folder:
        arguments = peer.arguments(pods, port, free_port(), model)
        if peer.command == "nginx":
            arguments = ("-p", folder, "-c", str(_nginx_file(Path(folder), pods, port)))
        process = Process([command, *arguments], port, {"RUST_LOG": "error"})
        try:
            await _forwards(process, model)
            yield Gateway(peer.name, process, peer.follows_events)
        finally:
            process.end()


def _nginx_file(folder: Path, pods: Sequence[Pod], port: int) -> Path:
    file = folder / "nginx.conf"
    servers = " ".join(f"server 127.0.0.1:{pod.port};" for pod in pods)
    user = "user root;" if os.geteuid() == 0 else ""
    file.write_text(_NGINX.format(folder=folder, servers=servers, port=port, user=user))
    return file


async def _compared(server: Kvcache) -> None:
    """Waits until kvcache knows that its tokens equal those of every pod: it trusts no others.

    Raises RuntimeError for a difference, and after a minute.
    """
    ends = time.monotonic() + _START_SECONDS
    while True:
        (connection,) = await server.connections(1)
        fleet = msgspec.json.decode(await connection.get("/pods"))["fleet"]
        verdicts = [parity["verdict"] for pod in fleet for parity in pod["parity"] or [{"verdict": "unknown"}]]
        if set(verdicts) == {"equal"}:
            return
        if "differs" in verdicts or time.monotonic() > ends:
            raise RuntimeError(f"kvcache does not know the tokens of its pods: {verdicts}")
        await asyncio.sleep(0.05)


async def _forwards(process: Process | Kvcache, model: str) -> None:
    """Waits until a chat is answered. Raises RuntimeError after a minute."""
    chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    ends = time.monotonic() + _START_SECONDS
    while True:
        try:
            (connection,) = await process.connections(1)
            await connection.send(connection.post("/v1/chat/completions", msgspec.json.encode(chat)))
        except (ConnectionError, Refused) as error:
            if not process.is_running or time.monotonic() > ends:
                raise RuntimeError(f"does not forward: {process.command}: {error}") from None
            await asyncio.sleep(0.05)
        else:
            return
