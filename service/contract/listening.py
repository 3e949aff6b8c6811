"""The lines from `python -m service listen` to `kvcache doctor`: one JSON object per endpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Heard:
    """Messages of one endpoint. `problem` is a failed connection, `unreadable` a message that cannot be parsed."""

    address: str
    connected: bool
    messages: int
    topics: Sequence[str]
    pods: Sequence[str]
    models: Sequence[str]
    block_sizes: Sequence[int]
    hash_bits: Sequence[int]
    unreadable: str | None = None
    problem: str | None = None
    replay: str | None = None
    """The address of the replay socket that was asked, if there is one."""
    replay_from: int | None = None
    """The first sequence number in its replay buffer; None if it is empty, or did not answer."""
    replay_problem: str | None = None


def write_heard(heard: Heard) -> str:
    """The line's JSON, without a line end."""
    return json.dumps(asdict(heard))


def read_heard(text: str) -> Heard:
    return Heard(**json.loads(text))
