from __future__ import annotations

import asyncio
import sys

import msgspec

from service.contract.endpoints import Endpoint
from service.contract.listening import Heard, read_heard
from service.simulation.publisher import Publisher
from tests.command import free_port
from tests.conftest import ROOT


def _batch(block_hash: int | bytes) -> bytes:
    event = {
        "type": "BlockStored",
        "block_hashes": [block_hash],
        "parent_block_hash": None,
        "token_ids": list(range(16)),
        "block_size": 16,
        "lora_id": None,
    }
    return msgspec.msgpack.encode([1.0, [event], 0])


async def _listened(*endpoints: str, duration: str) -> list[Heard]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "listen", "--model", "org/default", "--for", duration),
        f"--endpoints={','.join(endpoints)}",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [read_heard(line) for line in output.decode().splitlines()]


async def test_what_an_engine_publishes_is_told_with_its_block_size_hashes_and_replay() -> None:
    async with Publisher(topic="kv@10.0.0.1:8000@org/model") as publisher:
        endpoint = f"{publisher.address},replay={publisher.replay}"
        await publisher.push(_batch(b"x" * 32), sequence=0)
        listening = asyncio.create_task(_listened(endpoint, duration="5s"))
        await publisher.subscribed()
        await publisher.push(_batch(7), sequence=1)
        (heard,) = await listening

    assert heard.connected
    assert (heard.messages, heard.topics) == (1, ["kv@10.0.0.1:8000@org/model"])
    assert (heard.pods, heard.models) == (["10.0.0.1:8000"], ["org/model"])
    assert (heard.block_sizes, heard.hash_bits) == ([16], [64])
    assert (heard.replay_from, heard.replay_problem) == (0, None)


async def test_silence_and_an_address_where_nobody_is_are_told_apart() -> None:
    async with Publisher(replay=None) as publisher:
        silent, nowhere = await _listened(publisher.address, f"tcp://127.0.0.1:{free_port()}", duration="5s")

    assert (silent.connected, silent.messages) == (True, 0)
    assert (nowhere.connected, nowhere.messages) == (False, 0)


async def test_endpoints_that_the_service_would_bind_are_left_out() -> None:
    assert await _listened("tcp://*:5557", f"tcp://127.0.0.1:{free_port()}", duration="0.1s") != []
    assert Endpoint("tcp://*:5557").binds
