from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from tests.ipv6 import needs_ipv6
from tests.waiting import PATIENCE

_LISTENING = re.compile(rb"listening on http://\S+:(\d+)")


def environment_of(folder: Path, **changes: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "CONTAINER_ENV": "true",
        "MODEL_NAME": "builtin/demo",
        "ZMQ_ENDPOINT": f"ipc://{folder}/events",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        **changes,
    }


async def started(environment: dict[str, str], *arguments: str) -> Process:
    command = (sys.executable, "-m", "service", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)


async def ended(environment: dict[str, str], *arguments: str) -> tuple[int | None, str, str]:
    process = await started(environment, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def running(environment: dict[str, str]) -> AsyncIterator[tuple[Process, int]]:
    """A real service process and the port that its log names."""
    process = await started(environment, "serve")
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if listening := _LISTENING.search(line):
                yield process, int(listening[1])
                break
        else:
            pytest.fail("the service ended before it listened")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def stop(process: Process, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    """Waits for the end after a signal; gives what was written to stdout and stderr meanwhile."""
    process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return out.decode(), err.decode()


async def request_in_flight(client: ClientSession) -> None:
    """Waits until the service is at work on a request."""
    async with asyncio.timeout(PATIENCE):
        while "kvcache_http_requests_in_flight 1" not in await (await client.get("/metrics")).text():
            pass


async def test_without_container_env_the_service_tells_to_run_kvcache_up(folder: Path) -> None:
    code, out, err = await ended(environment_of(folder, CONTAINER_ENV="", HTTP_PORT="nonsense"))
    assert (code, out) == (2, "")
    assert "kvcache up" in err
    assert "CONTAINER_ENV=true python -m service serve" in err


async def test_an_invalid_setting_is_reported_in_one_line_with_its_name(folder: Path) -> None:
    code, out, err = await ended(environment_of(folder, HTTP_PORT="eighty"))
    assert (code, out) == (1, "")
    assert err == "HTTP_PORT='eighty': must be a whole number from 0 to 65535\n"


async def test_an_unknown_command_is_wrong_usage(folder: Path) -> None:
    code, _, err = await ended(environment_of(folder), "dance")
    assert code == 2
    assert "serve" in err


@needs_ipv6
async def test_the_ipv6_wildcard_answers_ipv4_too(folder: Path) -> None:
    async with running(environment_of(folder, HTTP_HOST="::")) as (_, port), ClientSession() as client:
        for host in ("127.0.0.1", "[::1]"):
            async with client.get(f"http://{host}:{port}/health") as answer:
                assert answer.status == 200


async def test_a_port_in_use_is_reported_in_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = await ended(environment_of(folder, HTTP_PORT=str(port), LOG_FORMAT="json"))
    assert (code, err) == (1, "")
    last = json.loads(out.splitlines()[-1])
    assert last["level"] == "error"
    assert f"HTTP_PORT={port}" in last["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_service_with_exit_code_0(folder: Path, number: signal.Signals) -> None:
    async with running(environment_of(folder)) as (process, _):
        out, err = await stop(process, number)
    assert process.returncode == 0
    assert "Received shutdown signal" in out
    assert err == ""


async def test_a_request_in_flight_is_answered_before_the_stop(folder: Path) -> None:
    body = b'{"prompt": [1, 2, 3]}'
    async with running(environment_of(folder)) as (process, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:5])
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            await request_in_flight(client)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        async for line in process.stdout:
            if b"Received shutdown signal" in line:
                break
        writer.write(body[5:])
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"\r\n\r\nnull")
        assert await process.wait() == 0


async def test_a_request_in_flight_is_cut_if_it_does_not_end_in_drain_timeout(folder: Path) -> None:
    async with running(environment_of(folder, DRAIN_TIMEOUT="1ms")) as (process, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            await request_in_flight(client)
        await stop(process)
        assert b"200 OK" not in await reader.read()
        writer.close()


async def test_a_connection_that_is_made_while_the_service_stops_is_answered(folder: Path) -> None:
    body = b'{"prompt": [1, 2, 3]}'
    async with running(environment_of(folder, DRAIN_TIMEOUT="1h")) as (process, port):
        made = [await asyncio.open_connection("127.0.0.1", port)]
        process.send_signal(signal.SIGTERM)
        with suppress(ConnectionRefusedError):
            async with asyncio.timeout(PATIENCE):
                while True:  # until it refuses connections
                    made.append(await asyncio.open_connection("127.0.0.1", port))
                    if len(made) > 8:
                        break
        for _, writer in made:
            writer.write(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answers = [await reader.read() for reader, _ in made]
        for _, writer in made:
            writer.close()
        assert all(answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"null") for answer in answers), answers
        assert await process.wait() == 0


async def test_a_stopping_service_answers_what_is_in_flight_is_not_ready_and_ends_kept_connections(
    folder: Path,
) -> None:
    body = b'{"prompt": [1, 2, 3]}'
    async with running(environment_of(folder, DRAIN_TIMEOUT="1h")) as (process, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:5])
        kept_reader, kept_writer = await asyncio.open_connection("127.0.0.1", port)
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            await request_in_flight(client)
        kept_writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await kept_reader.readuntil(b"OK")).endswith(b"OK")
        assert (await kept_reader.readuntil(b"\r\n\r\nOK")).endswith(b"OK")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        async for line in process.stdout:
            if b"Received shutdown signal" in line:
                break
        kept_writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        told = await kept_reader.read()
        assert told.startswith(b"HTTP/1.1 503")
        assert b"Connection: close" in told
        assert b"the service is stopping" in told
        assert process.returncode is None
        writer.write(body[5:])
        assert (await reader.read()).endswith(b"null")
        for one in (writer, kept_writer):
            one.close()
        assert await process.wait() == 0


async def test_a_request_that_never_ends_does_not_delay_the_stop(folder: Path) -> None:
    async with running(environment_of(folder, BODY_TIMEOUT="1h")) as (process, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            await request_in_flight(client)
        await stop(process)
        writer.close()
    assert process.returncode == 0


async def test_long_work_in_a_thread_does_not_delay_the_stop(folder: Path) -> None:
    text = " ".join(f"{number}{number * 7919}x" for number in range(200_000))
    body = io.BytesIO(json.dumps({"prompt": text}).encode())
    async with running(environment_of(folder)) as (process, port), ClientSession(f"http://127.0.0.1:{port}") as client:
        scoring = asyncio.create_task(client.post("/score", data=body))
        await request_in_flight(client)
        await stop(process)
        (outcome,) = await asyncio.gather(scoring, return_exceptions=True)
    assert isinstance(outcome, ClientError), "the stop waited for the work"
    assert process.returncode == 0


HANGING_RESOLVER = """
import os, socket, time
def getaddrinfo(host, *_, **__):
    os.write(2, f"asked for {host}\\n".encode())
    time.sleep(3600)
socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.parametrize("variable", ["ZMQ_ENDPOINT", "PODS"])
async def test_a_resolver_that_hangs_delays_neither_answers_nor_the_stop(folder: Path, variable: str) -> None:
    (folder / "sitecustomize.py").write_text(HANGING_RESOLVER)
    names = [f"pod-{number}.test" for number in range(60)]
    named = {
        "ZMQ_ENDPOINT": [f"tcp://{name}:5557,replay=tcp://{name}:5558" for name in names],
        "PODS": [f"http://{name}:8000" for name in names],
    }
    environment = environment_of(folder, PYTHONPATH=str(folder), **{variable: ",".join(named[variable])})
    async with running(environment) as (process, port), ClientSession(f"http://127.0.0.1:{port}") as client:
        async with client.get("/health") as answer:
            assert answer.status == 200
        assert process.stderr is not None
        asked = {await process.stderr.readline() for _ in names}
        assert asked == {f"asked for {name}\n".encode() for name in names}
        await stop(process)
    assert process.returncode == 0


async def test_the_health_check_exits_0_only_while_the_service_answers(folder: Path) -> None:
    async with running(environment_of(folder)) as (_, port):
        environment = {**os.environ, "HTTP_PORT": str(port)}
        command = (sys.executable, "-m", "service.healthcheck")
        assert await (await asyncio.create_subprocess_exec(*command, env=environment)).wait() == 0
    assert await (await asyncio.create_subprocess_exec(*command, env=environment)).wait() == 1
