from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE

import aiohttp

from service.contract.endpoints import parse_endpoints
from tests.conftest import ROOT
from tests.service.conftest import Serve
from tests.service.engines import chat
from tests.waiting import PATIENCE


async def test_simulated_engines_serve_until_ctrl_c(serve: Serve) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "simulate", "--pods", "2", "--port", "0", "--decode-time", "1ms"),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        lines = [(await process.stdout.readline()).decode().strip() for _ in range(3)]
        *urls, endpoints = lines
        service = await serve(zmq_endpoint=parse_endpoints(endpoints.removeprefix("ZMQ_ENDPOINT=")))
        async with aiohttp.ClientSession() as client:
            for url in urls:
                answer = await (await client.post(f"{url}/v1/chat/completions", json=chat("Hello " * 40))).json()
                assert answer["usage"]["prompt_tokens"] > 40
        while True:
            scores = (await (await service.post("/score_completions", json=chat("Hello " * 40))).json())["pod_scores"]
            if scores and set(scores) == {url.removeprefix("http://") for url in urls}:
                break
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert errors.decode().startswith(f"Serve them: kvcache up --runtime process --pod {urls[0]} --pod {urls[1]}\n")
    assert "kvcache simulate --host 0.0.0.0" in errors.decode()
