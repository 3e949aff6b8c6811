from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest
import zmq
import zmq.auth

from scripts.truth import Truth
from service.contract.endpoints import Endpoint, parse_endpoints
from service.events.recording import Recorded, Recording, recorded_line
from tests.command import free_port
from tests.conftest import ROOT
from tests.service.conftest import Serve
from tests.service.events.batches import TOPIC, stored
from tests.service.events.conftest import Listen
from tests.waiting import PATIENCE, reserved_port, until

Start: TypeAlias = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts `python -m service …` and ends what is left of it."""
    started: list[Process] = []

    async def run(*arguments: object, **settings: str) -> Process:
        command = (sys.executable, "-m", "service", *map(str, arguments))
        environment = {**os.environ, **settings}
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: Process, text: str) -> str:
    """The line of standard error that has this in it."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stderr.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"ended without saying {text!r}")


def messages(path: Path) -> list[Recorded]:
    with path.open("rb") as lines:
        return list(Recording(lines))


@pytest.mark.parametrize("name", ["c_lora_salt", "g_dp", "d_bytes"])
async def test_what_is_recorded_and_replayed_gives_the_service_the_same_scores_as_the_original(
    start: Start, serve: Serve, recordings: Path, tmp_path: Path, name: str
) -> None:
    truth = Truth.read(recordings / f"{name}.truth.json")
    copied = tmp_path / "copy.jsonl"
    count = len(messages(recordings / f"{name}.jsonl"))

    original = await start("replay", recordings / f"{name}.jsonl", "--to", "tcp://127.0.0.1:*", "--bind", "--stay")
    endpoint = (await said(original, "ZMQ_ENDPOINT=")).split("ZMQ_ENDPOINT=")[1].strip()
    recording = await start("record", copied, "--zmq-endpoint", endpoint, "--count", count)
    assert await asyncio.wait_for(recording.wait(), PATIENCE) == 0

    again = await start("replay", copied, "--to", "tcp://127.0.0.1:*", "--bind")
    heard = (await said(again, "ZMQ_ENDPOINT=")).split("ZMQ_ENDPOINT=")[1].strip()
    client = await serve(zmq_endpoint=parse_endpoints(heard), block_size=truth.block_size)
    assert await asyncio.wait_for(again.wait(), PATIENCE) == 0
    last = {(rank.pod, rank.number): number for rank, number in truth.last_sequence.items()}
    async with asyncio.timeout(PATIENCE):
        while True:
            pods = (await (await client.get("/pods")).json())["pods"]
            if {(pod["pod"], pod["rank"]): pod["last_sequence"] for pod in pods} == last:
                break
    for prompt, blocks in truth.probes:
        question = {"prompt": list(prompt.tokens), "model": prompt.model}
        extras = {"lora_name": prompt.lora_name, "cache_salt": prompt.cache_salt}
        question |= {field: value for field, value in extras.items() if value is not None}
        answer = await (await client.post("/explain", json=question)).json()
        found = {(match["pod"], match["rank"]): match["matched_blocks"] for match in answer["matches"]}
        assert found == {(rank.pod, rank.number): count for rank, count in blocks.items() if count}


async def test_publishers_connect_to_a_service_that_is_bound(start: Start, listen: Listen, recordings: Path) -> None:
    truth = Truth.read(recordings / "g_dp.truth.json")
    listening = await listen(Endpoint("tcp://127.0.0.1:*"))
    (address,) = listening.pool.addresses()
    done = await start("replay", recordings / "g_dp.jsonl", "--to", address)
    assert await asyncio.wait_for(done.wait(), PATIENCE) == 0
    await listening.heard(truth.last_sequence)
    assert list(truth.differences(listening.index)) == []


async def test_the_original_pace_is_kept_or_made_faster(start: Start, listen: Listen, tmp_path: Path) -> None:
    slow = tmp_path / "slow.jsonl"

    with slow.open("wb") as file:
        for number in range(3):
            payload = msgspec.msgpack.encode([1000.0 + number, [], 0])
            file.write(recorded_line(Recorded("pod", b"kv@pod@m", number, payload)))
    taken = []
    for speed in ("10", "4"):
        listening = await listen(Endpoint("tcp://127.0.0.1:*"))
        (address,) = listening.pool.addresses()
        begun = asyncio.get_running_loop().time()
        process = await start("replay", slow, "--to", address, "--speed", speed)
        await said(process, "waiting for a subscriber")
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        taken.append(asyncio.get_running_loop().time() - begun)
    assert taken[0] >= 2 / 10
    assert taken[1] >= 2 / 4


async def test_ctrl_c_ends_a_recording_well(start: Start, recordings: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    port = free_port()
    recording = await start("record", path, "--zmq-endpoint", f"tcp://*:{port}", "--quiet")
    played = await start("replay", recordings / "a_simple.jsonl", "--to", f"tcp://127.0.0.1:{port}")
    assert await asyncio.wait_for(played.wait(), PATIENCE) == 0
    await until(lambda: len(messages(path)) == 3)
    recording.send_signal(signal.SIGINT)
    line = await said(recording, "messages")
    assert line.startswith("3 messages, ")
    assert await asyncio.wait_for(recording.wait(), PATIENCE) == 0
    assert [message.sequence for message in messages(path)] == [0, 1, 2]


async def test_a_recording_of_an_engine_that_is_not_there_says_so_at_its_end(start: Start, tmp_path: Path) -> None:
    with reserved_port() as port:
        endpoint = f"tcp://127.0.0.1:{port}"
        recording = await start("record", tmp_path / "new", "--zmq-endpoint", endpoint, "--for", "1s", "--quiet")
        line = await said(recording, "nothing came from")
    assert line.startswith(f"record: nothing came from {endpoint}: nobody accepts connections there; start the engine")


async def test_an_engine_that_asks_for_our_key_is_recorded_with_it(start: Start, tmp_path: Path) -> None:
    """The service's key pair is that of ZMQ_CURVE_KEY, in a recording, too."""
    ours, engine = (zmq.auth.create_certificates(tmp_path, name) for name in ("ours", "engine"))
    port = free_port()
    endpoint = f"tcp://*:{port},curve={engine[0]}"
    path = tmp_path / "new"
    recording = await start("record", path, "--zmq-endpoint", endpoint, "--count", "1", ZMQ_CURVE_KEY=ours[1])
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.linger = 0
        publisher.curve_publickey, publisher.curve_secretkey = zmq.auth.load_certificate(engine[1])
        publisher.curve_serverkey, _ = zmq.auth.load_certificate(ours[0])
        publisher.connect(f"tcp://127.0.0.1:{port}")
        await until(lambda: bool(publisher.poll(0)))
        publisher.send_multipart((TOPIC.encode(), bytes(8), stored(0)))
        assert await asyncio.wait_for(recording.wait(), PATIENCE) == 0
    assert [message.topic for message in messages(path)] == [TOPIC.encode()]


async def test_a_killed_recording_can_be_read_and_gone_on_with(start: Start, recordings: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    port = free_port()
    for expected in (3, 6):
        recording = await start("record", path, "--zmq-endpoint", f"tcp://*:{port}", "--append")
        played = await start("replay", recordings / "a_simple.jsonl", "--to", f"tcp://127.0.0.1:{port}")
        assert await asyncio.wait_for(played.wait(), PATIENCE) == 0
        await until(lambda: path.exists() and len(messages(path)) == expected)  # noqa: B023 - waited for in this round
        recording.kill()
        await recording.wait()
        path.write_bytes(path.read_bytes() + b'{"pod": "torn')
    assert len(messages(path)) == 6


@pytest.mark.parametrize(
    ("arguments", "said_then"),
    [
        (("record", "/no/such/folder/file"), "No such file"),
        (("record", "README.md"), "--append"),
        (("record", "/dev/null", "--append", "--zmq-endpoint", "http://x"), "must start with tcp://"),
        (("record", "/dev/null", "--append", "--zmq-endpoint", "ipc:///no/such/folder/socket"), "cannot bind"),
        (("replay", "no-such-file", "--to", "tcp://*:*"), "No such file"),
        (("replay", "README.md", "--to", "tcp://*:*"), "no line of it is a message"),
        (("replay", "README.md"), "--to"),
        (("replay", "README.md", "--to", "nowhere"), "must start with tcp://"),
    ],
)
async def test_errors_are_reported_without_a_traceback(
    start: Start, arguments: tuple[str, ...], said_then: str
) -> None:
    process = await start(*arguments)
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode in {1, 2}
    assert said_then in errors.decode()
    assert "Traceback" not in errors.decode()
