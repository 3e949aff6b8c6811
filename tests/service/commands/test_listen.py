from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec

from service.commands.listen import Listener, listen
from service.contract.endpoints import Endpoint
from service.contract.listening import read_heard
from service.simulation.publisher import Publisher
from tests.command import free_port
from tests.conftest import ROOT
from tests.waiting import until


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


async def test_what_an_engine_publishes_is_told_with_its_block_size_hashes_and_replay() -> None:
    async with Publisher(topic="kv@10.0.0.1:8000@org/model") as publisher:
        await publisher.push(_batch(b"x" * 32), sequence=0)

        async def publish(listeners: Sequence[Listener]) -> None:
            await publisher.subscribed()
            await publisher.push(_batch(7), sequence=1)
            await until(lambda: listeners[0].messages > 0)

        (heard,) = await listen([Endpoint(publisher.address, replay=publisher.replay)], "org/default", publish)

    assert heard.connected
    assert (heard.messages, heard.topics) == (1, ["kv@10.0.0.1:8000@org/model"])
    assert (heard.pods, heard.models) == (["10.0.0.1:8000"], ["org/model"])
    assert (heard.block_sizes, heard.hash_bits) == ([16], [64])
    assert (heard.replay_from, heard.replay_problem) == (0, None)


async def test_silence_and_an_address_where_nobody_is_are_told_apart() -> None:
    async with Publisher(replay=None) as publisher:
        endpoints = [Endpoint(publisher.address), Endpoint(f"tcp://127.0.0.1:{free_port()}")]
        silent, nowhere = await listen(
            endpoints, "org/default", lambda listeners: until(lambda: listeners[0].is_connected)
        )

    assert (silent.connected, silent.messages) == (True, 0)
    assert (nowhere.connected, nowhere.messages) == (False, 0)


async def test_the_command_leaves_out_endpoints_that_the_service_would_bind() -> None:
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "listen", "--model", "org/default", "--for", "0.1s"),
        f"--endpoints=tcp://*:5557,{nowhere}",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    (heard,) = map(read_heard, output.decode().splitlines())
    assert heard.address == nowhere
