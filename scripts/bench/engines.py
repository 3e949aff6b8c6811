"""Publishers of random blocks, in a form that all compared indexes read."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import msgspec
import zmq

BLOCK_SIZE = 16
MODEL = "m"


class Chain(NamedTuple):
    """Consecutive blocks from the start of a prompt: one hash and BLOCK_SIZE token ids per block."""

    hashes: list[int]
    tokens: list[int]


def chain(random: Random, blocks: int) -> Chain:
    return Chain(hashes(random, blocks), tokens(random, blocks * BLOCK_SIZE))


def hashes(random: Random, blocks: int) -> list[int]:
    return array("Q", random.randbytes(8 * blocks)).tolist()


def tokens(random: Random, count: int) -> list[int]:
    """Random token ids below 65,536."""
    return array("H", random.randbytes(2 * count)).tolist()


def stored(chain: Chain) -> dict[str, object]:
    """The store event of a chain, with the fields of vLLM 0.33."""
    return {
        "type": "BlockStored",
        "block_hashes": chain.hashes,
        "parent_block_hash": None,
        "token_ids": chain.tokens,
        "block_size": BLOCK_SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    }


def removed(names: Sequence[int]) -> dict[str, object]:
    """The eviction event of blocks."""
    return {"type": "BlockRemoved", "block_hashes": names, "medium": "GPU"}


def batch(*events: dict[str, object]) -> bytes:
    """The payload of one message: `[ts, [event, …], rank]`."""
    return msgspec.msgpack.encode([time.time(), events, 0])


class Engine:
    """A publisher for one subscriber that never drops a message."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.sndhwm = 0
        self._socket.linger = 0
        self._sequence = 0
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def wait_for_subscriber(self) -> None:
        """Raises TimeoutError after ten seconds."""
        if not self._socket.poll(10_000):
            raise TimeoutError(f"no subscriber at {self.address}")
        self._socket.recv()

    def publish(self, payload: bytes) -> None:
        """Sends a batch with the next sequence number."""
        self._socket.send_multipart((b"", self._sequence.to_bytes(8, "big"), payload))
        self._sequence += 1

    def close(self) -> None:
        self._socket.close()
        self._context.term()
