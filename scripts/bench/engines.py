"""Publishers of made-up blocks, in a form that every index of the field reads."""

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
VOCABULARY = 49_152


class Chain(NamedTuple):
    """Consecutive blocks from the start of a prompt: one hash and BLOCK_SIZE token ids for each."""

    hashes: list[int]
    tokens: list[int]


def chain(random: Random, blocks: int) -> Chain:
    """Gives blocks that nobody has seen before."""
    tokens = array("I", random.randbytes(4 * blocks * BLOCK_SIZE))
    return Chain([random.getrandbits(64) for _ in range(blocks)], [token % VOCABULARY for token in tokens])


def batch(chains: Sequence[Chain]) -> bytes:
    """Gives the payload of one message: `[ts, [BlockStored, …], rank]`, the events as vLLM 0.33 writes them."""
    events = [
        {
            "type": "BlockStored",
            "block_hashes": stored.hashes,
            "parent_block_hash": None,
            "token_ids": stored.tokens,
            "block_size": BLOCK_SIZE,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
        }
        for stored in chains
    ]
    return msgspec.msgpack.encode([time.time(), events, 0])


class Engine:
    """A publisher with one subscriber, for whom nothing is dropped."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.sndhwm = 0
        self._socket.linger = 0
        self._sequence = 0
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def wait_for_subscriber(self) -> None:
        """Returns when it is there; raises TimeoutError after ten seconds."""
        if not self._socket.poll(10_000):
            raise TimeoutError(f"nobody subscribes to {self.address}")
        self._socket.recv()

    def publish(self, payload: bytes) -> None:
        """Sends a batch under the next sequence number."""
        self._socket.send_multipart((b"", self._sequence.to_bytes(8, "big"), payload))
        self._sequence += 1

    def close(self) -> None:
        self._socket.close()
        self._context.term()
