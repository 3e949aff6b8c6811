#!/usr/bin/env python3
"""When a browser paints the page of a service with many pods, and when it shows them. Needs Chromium and chromedriver.

    python -m scripts.bench.page
    python -m scripts.bench.page --pods 5000

Each pod has a URL that answers health checks, and publishes events. Every run is a new browser without a cache.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
from aiohttp import ClientSession, web

from scripts.bench.servers import ROOT, free_port
from service.simulation.publisher import Publisher, batch_payload
from tests.service.ui.browser import Browser

MODEL = "builtin/demo"
_PATIENCE = 300.0
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]"
_NOTE = """
addEventListener("DOMContentLoaded", () => {
  const shown = document.getElementById("pods-shown");
  const watcher = new MutationObserver(() => {
    if (!shown.textContent) return;
    watcher.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.rowsAt = performance.now(); }));
  });
  watcher.observe(shown, { childList: true, characterData: true, subtree: true });
});
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    return asyncio.run(_measure(parser.parse_args()))


async def _measure(options: argparse.Namespace) -> int:
    events = free_port()
    async with _engines() as engines, _service(events) as (url, process):
        await _fill(url, engines, events, options.pods)
        paints, rows, least = [], [], []
        for _ in range(options.runs):
            painted, listed, empty = await _open(url)
            paints.append(painted)
            rows.append(listed)
            least.append(empty)
        print(f"{options.pods} pods, median of {options.runs} runs, in ms (all)")
        print(f"  two letters      {statistics.median(least):5.0f}   {_all(least)}")
        print(f"  first paint      {statistics.median(paints):5.0f}   {_all(paints)}")
        print(f"  pods are listed  {statistics.median(rows):5.0f}   {_all(rows)}")
        async with ClientSession(url) as client:
            alone, watched = await _cpu(process, None), await _cpu(process, client)
        print(f"  CPU of the service: {alone:.1f} % without a page, {watched:.1f} % with one")
    return 0


def _all(times: Sequence[float]) -> str:
    return " ".join(f"{time:.0f}" for time in sorted(times))


async def _cpu(process: psutil.Process, client: ClientSession | None, seconds: float = 10.0) -> float:
    """The share of a core that the service takes, while a client reads the updates of pods if there is one."""

    async def read(client: ClientSession) -> None:
        async with client.get("/pods", headers={"Accept": "text/event-stream"}) as stream:
            async for _ in stream.content.iter_any():
                pass

    reading = asyncio.create_task(read(client)) if client is not None else None
    process.cpu_percent()
    await asyncio.sleep(seconds)
    share = process.cpu_percent()
    if reading is not None:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return share


@asynccontextmanager
async def _engines() -> AsyncIterator[int]:
    """One server that answers the questions of health checks, on every address of 127.0.0.0/8; its port."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/v1/models", models)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)  # noqa: S104 - several addresses of loopback
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _service(events: int) -> AsyncIterator[tuple[str, psutil.Process]]:
    port = free_port()
    environment = {
        "CONTAINER_ENV": "true",
        "MODEL_NAME": MODEL,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "ZMQ_ENDPOINT": f"tcp://127.0.0.1:{events}",
        "LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "service", "serve", cwd=ROOT, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(_PATIENCE), ClientSession(url) as client:
            while not await _answers(client):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def _answers(client: ClientSession) -> bool:
    try:
        async with client.get("/ready") as ready:
            return ready.status in (200, 503)
    except OSError:
        return False


async def _fill(url: str, port: int, events: int, pods: int) -> None:
    """Adds pods, and publishes blocks of each."""
    async with ClientSession(url) as client, Publisher(f"tcp://127.0.0.1:{events}", None, binds=True) as publisher:
        await publisher.subscribed()
        for number in range(pods):
            host = f"127.1.{number // 250}.{number % 250 + 1}"
            body = {"url": f"http://{host}:{port}", "name": f"pod-{number:04}"}
            async with client.post("/pods", json=body) as added:
                added.raise_for_status()
            payload = batch_payload([_stored(number)])
            publisher.publish_frames([f"kv@pod-{number:04}@{MODEL}".encode(), (0).to_bytes(8, "big"), payload])
        async with asyncio.timeout(_PATIENCE):
            while True:
                listed = await (await client.get("/pods")).json()
                healthy = sum(bool(pod["healthy"]) for pod in listed["fleet"])
                if len(listed["pods"]) >= pods and healthy >= pods:
                    return
                await asyncio.sleep(1)


def _stored(number: int) -> dict[str, Any]:
    tokens = [number % 500 + 1] * 16
    return {
        "type": "BlockStored",
        "block_hashes": [number + 1],
        "parent_block_hash": None,
        "token_ids": tokens,
        "block_size": 16,
        "lora_id": None,
    }


async def _open(url: str) -> tuple[float, float, float]:
    """Milliseconds in a new browser until the first paint, until the pods are listed, and until the first paint of
    GET /health, which is as fast as this machine is at that moment.
    """
    driver = free_port()
    process = await asyncio.create_subprocess_exec(
        "chromedriver", f"--port={driver}", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with ClientSession(f"http://127.0.0.1:{driver}") as http:
            async with asyncio.timeout(_PATIENCE):
                while not await _is_up(http):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            browser = await Browser.start(http)
            await browser.before_each_page(_NOTE)
            await browser.open(f"{url}/ui")
            listed = await browser.see("window.rowsAt")
            painted = await browser.script(f"return {_PAINT}.startTime")
            await browser.open(f"{url}/health")
            empty = await browser.see(f"{_PAINT}?.startTime")
            await browser.close()
            return float(painted), float(listed), float(empty)
    finally:
        process.terminate()
        await process.wait()


async def _is_up(http: ClientSession) -> bool:
    try:
        async with http.get("/status") as status:
            return status.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
