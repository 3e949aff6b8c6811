"""Batches of one block each, and what a pool has made of them."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from service.contract.endpoints import Endpoint
from service.index.base import Prompt, Rank
from service.simulation.publisher import Publisher
from tests.service.events.conftest import Listening
from tests.waiting import until

RANK = Rank("10.0.0.1:8000", "m")
TOPIC = "kv@10.0.0.1:8000@m"
NEVER = float("inf")
"""As `first_check`: no replay socket is asked for batches that nothing shows to be missing."""


def tokens_of(number: int) -> list[int]:
    return [number * 10 + offset for offset in range(4)]


def stored(number: int, *, rank: int | None = 0, time: float = 1.0) -> bytes:
    """A batch that stores one block of four tokens, with a chain of its own."""
    event = {"type": "BlockStored", "block_hashes": [number], "token_ids": tokens_of(number), "block_size": 4}
    return msgspec.msgpack.encode([time, [event], rank])


def batch(*events: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


def held(listening: Listening, rank: Rank = RANK) -> set[int]:
    """The numbers of the blocks that a rank holds, of the first hundred."""
    prompts = {number: Prompt(rank.model, array("I", tokens_of(number))) for number in range(100)}
    return {
        number
        for number, prompt in prompts.items()
        if any(match.rank == rank for match in listening.index.match(prompt))
    }


def state(listening: Listening, rank: Rank = RANK) -> tuple[bool, str | None]:
    found = listening.states()[rank]
    return found.exact, found.inexact_reason


async def becomes_exact(listening: Listening, rank: Rank = RANK) -> None:
    """Waits until a rank is exact: a replay brings the last batch before it ends."""
    await until(lambda: state(listening, rank) == (True, None))


async def introduced(*publishers: Publisher) -> None:
    """Waits until each publisher has a subscriber, and has answered the request that follows a new connection.

    What is published from here on comes through the live socket, unless a loss or a check asks for it.
    """
    for publisher in publishers:
        await publisher.subscribed()
        await until(lambda publisher=publisher: publisher.requests > 0)  # type: ignore[misc]


def endpoint(publisher: Publisher, *, replay: bool = True, **named: str) -> Endpoint:
    return Endpoint(publisher.address, replay=publisher.replay if replay else None, **named)
