from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientSession, TCPConnector, UnixConnector

from service.simulation.publisher import Publisher
from service.workers.cores import number_of_cores
from tests.command import free_port
from tests.service.certificates import Authority
from tests.service.engines import engine_starter
from tests.service.events.batches import stored, tokens_of
from tests.service.workers.running import Machine, environment_of, running
from tests.tries import only_thorough
from tests.waiting import PATIENCE, until

GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


async def connected(machine: Machine, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that was answered once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", machine.port)
    stack.callback(writer.close)
    writer.write(GET_HEALTH)
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\nOK"), PATIENCE)
    return reader, writer


@asynccontextmanager
async def shared_by(machine: Machine, connections: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many connections, made after each worker has become ready."""
    async with AsyncExitStack() as stack:
        readers = []
        while not all(machine.connections()):
            readers.append((await connected(machine, stack))[0])
        while len(readers) < connections:
            readers.append((await connected(machine, stack))[0])
        yield readers


async def ended_by_worker(reader: asyncio.StreamReader) -> bool:
    """Whether a connection has ended; one that goes on has nothing to say."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.1):
            return not await reader.read()
    return reader.exception() is not None


async def requests_counted(port: int) -> float:
    """The requests of POST /score that all workers have answered, by a worker that takes a new connection."""
    async with ClientSession(f"http://127.0.0.1:{port}") as client, client.get("/metrics") as answer:
        assert answer.status == 200
        counted = re.search(
            r'kvcache_http_requests_total\{method="POST",route="/score",status="200"\} (\S+)', await answer.text()
        )
        return float(counted[1]) if counted else 0.0


async def score(machine: Machine, times: int) -> None:
    """Sends requests, each over a connection of its own."""
    async with ClientSession(f"http://127.0.0.1:{machine.port}", connector=TCPConnector(force_close=True)) as client:
        for _ in range(times):
            async with client.post("/score", json={"prompt": [1, 2, 3]}) as answer:
                assert answer.status == 200


async def test_each_worker_writes_its_lines_of_the_access_log(folder: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    async with running(environment_of(folder, PODS=gone, ACCESS_LOG="json")) as machine, AsyncExitStack() as clients:
        async with asyncio.timeout(PATIENCE):
            while {json.loads(line)["worker"] for line in access_lines(machine)} != {0, 1}:
                client = await clients.enter_async_context(ClientSession(f"http://127.0.0.1:{machine.port}"))
                async with client.post("/v1/completions", json={"prompt": "Hi"}) as answer:
                    assert answer.status == 503


def access_lines(machine: Machine) -> list[str]:
    return [line for line in machine.lines if "service.routed" in line]


async def scores_everywhere(machine: Machine, block: int, expected: dict[str, float]) -> None:
    """Waits until each worker has a score for a block."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with AsyncExitStack() as stack:
                url = f"http://127.0.0.1:{machine.port}"
                clients = [await stack.enter_async_context(ClientSession(url)) for _ in range(2 * len(machine.workers))]
                scores = [await (await one.post("/score", json={"prompt": tokens_of(block)})).json() for one in clients]
                if all(machine.connections()) and all(one == expected for one in scores):
                    return


async def test_workers_get_as_many_connections_each(folder: Path) -> None:
    async with running(environment_of(folder)) as machine, shared_by(machine, 2), AsyncExitStack() as stack:
        for _ in range(20):
            await connected(machine, stack)
        fewest, most = sorted(machine.connections())
        assert fewest >= 10
        assert most - fewest <= 1


async def test_a_killed_worker_takes_its_connections_along_and_is_started_again(folder: Path) -> None:
    async with running(environment_of(folder)) as machine, shared_by(machine, 4) as readers:
        killed, other = machine.workers
        killed.kill()
        await until(lambda: machine.said("ended with signal 9; it starts again") == 1)
        cut = await asyncio.gather(*(ended_by_worker(reader) for reader in readers))
        assert 0 < sum(cut) < len(readers)
        await score(machine, 4)
        await until(lambda: machine.said("is loaded") == 3)
        assert other in machine.workers
        assert len(machine.workers) == 2
        async with shared_by(machine, 2):
            assert all(machine.connections())


async def test_a_worker_that_is_started_again_gets_its_part_of_the_connections_that_clients_keep(folder: Path) -> None:
    async with engine_starter() as start_engine, AsyncExitStack() as stack:
        environment = environment_of(folder, PODS=f"{(await start_engine()).url},name=a")
        machine = await stack.enter_async_context(running(environment))
        machine.workers[0].kill()
        await until(lambda: machine.said("starts again") == 1)
        url = f"http://127.0.0.1:{machine.port}"
        clients = [
            await stack.enter_async_context(ClientSession(url, connector=TCPConnector(limit=1))) for _ in range(8)
        ]
        requests = [
            ("/score", {"prompt": [1, 2, 3]}),
            ("/v1/completions", {"prompt": "Hi", "max_tokens": 1}),
            ("/v1/completions", {"prompt": "Hi", "max_tokens": 1, "stream": True}),
        ]

        async def ask(number: int) -> None:
            path, body = requests[number % len(requests)]
            async with clients[number].post(path, json=body) as answer:
                assert answer.status == 200
                await answer.read()

        async with asyncio.timeout(PATIENCE):
            while sorted(machine.connections()) != [4, 4]:
                await asyncio.gather(*(ask(number) for number in range(len(clients))))


def worker_of(machine: Machine, writer: asyncio.StreamWriter) -> psutil.Process:
    """The worker at the other end of a connection."""
    port = writer.get_extra_info("sockname")[1]
    (found,) = [worker for worker in machine.workers if port in {client_port(one) for one in worker.net_connections()}]
    return found


def client_port(connection: Any) -> int | None:
    return connection.raddr.port if connection.raddr and connection.status == psutil.CONN_ESTABLISHED else None


async def test_a_worker_that_hangs_is_killed_with_its_reservations_while_the_other_answers(folder: Path) -> None:
    async with engine_starter() as start_engine, AsyncExitStack() as stack:
        environment = environment_of(folder, PODS=f"{(await start_engine()).url},name=a", WORKER_TIMEOUT="6")
        machine = await stack.enter_async_context(running(environment))
        clients = await all_clients(machine, stack)
        await all_select(clients, {"a"})
        reader, writer = await connected(machine, stack)
        hanging = worker_of(machine, writer)
        body = b'{"prompt": [1, 2, 3], "reserve": true}'
        writer.write(b"POST /select HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await asyncio.wait_for(reader.readuntil(b'"reservation"'), PATIENCE)
        await all_count(clients, 1)
        other_reader, other_writer = await connected(machine, stack)
        while worker_of(machine, other_writer) == hanging:
            other_reader, other_writer = await connected(machine, stack)
        hanging.suspend()
        while not machine.said("told nothing for 6 s and was killed; it starts again"):
            other_writer.write(GET_HEALTH)
            assert b"200 OK" in await asyncio.wait_for(other_reader.readuntil(b"\r\n\r\nOK"), PATIENCE)
            await asyncio.sleep(0.05)
        await until(lambda: machine.said("is loaded") == 3)
        assert hanging not in machine.workers
        assert len(machine.workers) == 2
        clients = await all_clients(machine, stack)
        await all_count(clients, 0)


async def test_a_machine_that_was_suspended_loses_no_worker(folder: Path) -> None:
    async with running(environment_of(folder, WORKER_TIMEOUT="3")) as machine, shared_by(machine, 2):
        workers = machine.workers
        everything = [psutil.Process(machine.process.pid), *workers]
        for process in everything:
            process.suspend()
        await asyncio.sleep(4)
        for process in everything:
            process.resume()
        await score(machine, 4)
        assert machine.workers == workers


async def test_metrics_of_any_worker_count_the_requests_of_all_also_of_one_that_was_killed(folder: Path) -> None:
    async with running(environment_of(folder)) as machine, shared_by(machine, 2):
        await score(machine, 10)
        assert [await requests_counted(machine.port) for _ in range(4)] == [10.0] * 4
        machine.workers[0].kill()
        await until(lambda: machine.said("starts again") == 1)
        assert [await requests_counted(machine.port) for _ in range(4)] == [10.0] * 4
        await until(lambda: machine.said("is loaded") == 3)
        await score(machine, 5)
        assert [await requests_counted(machine.port) for _ in range(4)] == [15.0] * 4


async def test_all_workers_hear_an_engine_that_connects_and_hear_it_again_after_their_restart(folder: Path) -> None:
    events = f"ipc://{folder}/events"
    async with (
        running(environment_of(folder, ZMQ_ENDPOINT=events, BLOCK_SIZE="1")) as machine,
        Publisher(events, topic="kv@a@builtin/demo", binds=False) as publisher,
        shared_by(machine, 2),
    ):
        await publisher.subscribed()
        publisher.publish(stored(0))
        await scores_everywhere(machine, 0, {"a": 4})
        machine.workers[0].kill()
        await until(lambda: machine.said("is loaded") == 3)
        publisher.publish(stored(1))
        await scores_everywhere(machine, 1, {"a": 4})
        async with ClientSession(f"http://127.0.0.1:{machine.port}") as client, client.get("/pods") as answer:
            (rank,) = (await answer.json())["pods"]
        assert (rank["pod"], rank["last_sequence"], rank["connected"]) == ("a", 1, True)
        assert rank["exact"] is False, "one worker has not heard the first batch"


@pytest.mark.parametrize("engine_binds", [True, False])
async def test_a_worker_that_is_started_again_takes_over_what_another_one_knows(
    folder: Path, engine_binds: bool
) -> None:
    address = "tcp://127.0.0.1:*" if engine_binds else f"ipc://{folder}/events"
    async with AsyncExitStack() as stack:
        publisher = Publisher(address, replay=None, topic="kv@a@builtin/demo", binds=engine_binds)
        await stack.enter_async_context(publisher)
        heard = publisher.address if engine_binds else address
        machine = await stack.enter_async_context(running(environment_of(folder, ZMQ_ENDPOINT=heard, BLOCK_SIZE="1")))
        await stack.enter_async_context(shared_by(machine, 2))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await scores_everywhere(machine, 0, {"a": 4})
        for number, killed in enumerate(machine.workers, start=1):  # the second one learns from the first
            loaded = machine.said("blocks of 1 ranks from another worker")
            killed.kill()
            await until(lambda loaded=loaded: machine.said("blocks of 1 ranks from another worker") > loaded)  # type: ignore[misc]
            publisher.publish(stored(number))  # an engine that connects to us is asked for nothing
            for block in range(number + 1):
                await scores_everywhere(machine, block, {"a": 4})


async def test_one_worker_writes_the_snapshot_and_another_one_when_it_was_killed(folder: Path) -> None:
    states = folder / "state"
    async with Publisher(replay=None, topic="kv@a@builtin/demo") as publisher, AsyncExitStack() as stack:
        environment = environment_of(
            folder, ZMQ_ENDPOINT=publisher.address, BLOCK_SIZE="1", STATE_DIR=str(states), SNAPSHOT_INTERVAL="0.1"
        )
        machine = await stack.enter_async_context(running(environment))
        await stack.enter_async_context(shared_by(machine, 2))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await scores_everywhere(machine, 0, {"a": 4})
        file = states / "index.snapshot"
        await until(lambda: len(writers(machine, states)) == 1 and file.exists())
        (writer,) = writers(machine, states)
        writer.kill()
        await until(lambda: machine.said("starts again") == 1 and len(writers(machine, states)) == 1)
        written = file.stat().st_mtime_ns
        publisher.publish(stored(1))
        await until(lambda: file.stat().st_mtime_ns > written)
        assert machine.said("no snapshot") == 0


def writers(machine: Machine, states: Path) -> list[psutil.Process]:
    """The workers that have the right to write the snapshot."""
    lock = str(states / "lock")
    return [worker for worker in machine.workers if lock in {file.path for file in worker.open_files()}]


async def all_clients(machine: Machine, stack: AsyncExitStack) -> list[ClientSession]:
    """A client of each worker."""
    clients: list[ClientSession] = []
    while not all(machine.connections()):
        client = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{machine.port}"))
        assert (await client.get("/health")).status == 200
        clients.append(client)
    return clients


async def all_select(clients: list[ClientSession], pods: set[str]) -> None:
    """Waits until each client can select these pods."""

    async def selected(client: ClientSession) -> set[str]:
        async with client.post("/select", json={"prompt": [1, 2, 3]}) as answer:
            return {one["pod"] for one in (await answer.json()).get("candidates", ())}

    async with asyncio.timeout(PATIENCE):
        while any([await selected(client) != pods for client in clients]):
            pass


async def all_count(clients: list[ClientSession], in_flight: int) -> None:
    """Waits until each client is told of so many requests in flight at the only pod."""

    async def counted(client: ClientSession) -> int:
        async with client.post("/select", json={"prompt": [1, 2, 3]}) as answer:
            (candidate,) = (await answer.json())["candidates"]
            return int(candidate["in_flight"])

    async with asyncio.timeout(PATIENCE):
        while any([await counted(client) != in_flight for client in clients]):
            pass


async def test_a_pod_that_is_added_at_one_worker_is_selected_by_all_also_after_a_restart(folder: Path) -> None:
    async with engine_starter() as start_engine, AsyncExitStack() as stack:
        first, second = await start_engine(), await start_engine()
        environment = environment_of(folder, PODS=f"{first.url},name=a")
        machine = await stack.enter_async_context(running(environment))
        async with AsyncExitStack() as before:
            clients = await all_clients(machine, before)
            await clients[0].post("/pods", json={"url": second.url, "name": "b"})
            await all_select(clients, {"a", "b"})
        machine.workers[0].kill()
        await until(lambda: machine.said("is loaded") == 3)
        clients = await all_clients(machine, stack)
        await all_select(clients, {"a", "b"})
        async with clients[0].get("/pods") as answer:
            assert {pod["name"] for pod in (await answer.json())["fleet"]} == {"a", "b"}
        assert (await clients[-1].delete("/pods/b")).status == 200
        await all_select(clients, {"a"})


async def test_a_reservation_is_ended_through_any_worker(folder: Path) -> None:
    async with engine_starter() as start_engine, AsyncExitStack() as stack:
        environment = environment_of(folder, PODS=f"{(await start_engine()).url},name=a")
        machine = await stack.enter_async_context(running(environment))
        clients = await all_clients(machine, stack)
        await all_select(clients, {"a"})
        for client in clients:
            async with client.post("/select", json={"prompt": [1, 2, 3], "reserve": True}) as answer:
                name = (await answer.json())["reservation"]
            await all_count(clients, 1)
            for other in clients:
                assert (await other.post(f"/reservations/{name}/first_token")).status == 200
            assert (await clients[0].delete(f"/reservations/{name}?answered=false")).status == 200
            await all_count(clients, 0)
            for other in clients:
                assert (await other.delete(f"/reservations/{name}")).status == 404


async def test_the_metrics_port_and_the_unix_socket_are_shared_too(folder: Path) -> None:
    port, path = free_port(), folder / "http.sock"
    keys = "a:read:0123456789abcdef"
    environment = environment_of(folder, METRICS_PORT=str(port), HTTP_SOCKET=str(path), API_KEYS=keys)
    async with running(environment) as machine:
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            for shared in ("/metrics", "/health", "/ready"):
                async with client.get(shared) as answer:
                    assert answer.status == 200
            async with client.get("/pods") as answer:
                assert answer.status == 404
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        for _ in machine.workers:
            async with (
                ClientSession("http://kvcache", connector=UnixConnector(str(path)), headers=headers) as client,
                client.post("/score", json={"prompt": [1, 2]}) as answer,
            ):
                assert await answer.text() == "null"
    assert not path.exists()


async def test_each_worker_speaks_tls(folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("service")
    environment = environment_of(folder, TLS_CERT=str(pair.cert), TLS_KEY=str(pair.key))
    context = ssl.create_default_context(cafile=authority.pair.cert)
    async with running(environment) as machine, AsyncExitStack() as stack:
        async with asyncio.timeout(PATIENCE):
            while not all(machine.connections()):
                reader, writer = await asyncio.open_connection("localhost", machine.port, ssl=context)
                stack.callback(writer.close)
                writer.write(GET_HEALTH)
                assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=only_thorough)])
async def test_a_signal_to_the_supervisor_stops_all_with_exit_code_0(folder: Path, number: signal.Signals) -> None:
    async with running(environment_of(folder)) as machine:
        workers = machine.workers
        machine.process.send_signal(number)
        assert await asyncio.wait_for(machine.process.wait(), PATIENCE) == 0
        assert not any(worker.is_running() for worker in workers)
    assert machine.said("Received shutdown signal") == 1
    assert await asyncio.to_thread(lambda: list(folder.glob("kvcache-*"))) == []


async def test_connections_that_are_made_while_the_workers_stop_are_answered(folder: Path) -> None:
    answers: list[bytes] = []
    enough = 1000

    async def ask() -> None:
        with suppress(ConnectionRefusedError):
            while len(answers) < enough:
                reader, writer = await asyncio.open_connection("127.0.0.1", machine.port)
                writer.write(GET_HEALTH)
                answers.append(await asyncio.wait_for(reader.readuntil(b"\r\n\r\nOK"), PATIENCE))
                writer.close()

    async with running(environment_of(folder, DRAIN_TIMEOUT="1h")) as machine, shared_by(machine, 2):
        asking = [asyncio.create_task(ask()) for _ in range(8)]
        machine.process.send_signal(signal.SIGTERM)
        await until(lambda: machine.said("Received shutdown signal") == 1)
        before = len(answers)
        enough = before + 100
        await asyncio.gather(*asking)
        assert len(answers) > before + len(asking), "these were not in flight at the signal"
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        assert await asyncio.wait_for(machine.process.wait(), PATIENCE) == 0


async def test_workers_end_with_a_supervisor_that_was_killed(folder: Path) -> None:
    async with running(environment_of(folder)) as machine:
        workers = machine.workers
        machine.process.kill()
        await until(lambda: not any(_runs(worker) for worker in workers))


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def ended(environment: dict[str, str]) -> tuple[int | None, list[str]]:
    command = (sys.executable, "-m", "service", "serve")
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=STDOUT)
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, out.decode().splitlines()


async def test_a_setting_that_cannot_be_used_is_reported_once_with_exit_code_1(folder: Path) -> None:
    code, lines = await ended(environment_of(folder, API_KEYS_FILE=str(folder / "none")))
    assert code == 1
    assert sum("API_KEYS_FILE" in line for line in lines) == 1


async def test_a_port_in_use_is_reported_in_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, lines = await ended(environment_of(folder, HTTP_PORT=str(taken.getsockname()[1])))
    assert code == 1
    assert len(lines) == 1
    assert "HTTP_PORT" in lines[0]


async def test_one_worker_is_the_process_itself(folder: Path) -> None:
    async with running(environment_of(folder, WORKERS="1")) as machine:
        assert machine.workers == []
        assert machine.said("(worker") == 0


async def test_auto_is_one_worker_per_core(folder: Path) -> None:
    cores = number_of_cores()
    async with running(environment_of(folder, WORKERS="auto")) as machine:
        await until(lambda: machine.said("is loaded") == cores)
        assert len(machine.workers) == (cores if cores > 1 else 0)
