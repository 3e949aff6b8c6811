"""The compiled one-pass reader gives the same events as the general decoder."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from service.events import wire
from service.events.recording import Recording
from service.events.wire import WireError, read_batch
from service.index.base import Removed, Stored, Tier
from service.native import backend, fallback
from tests.tries import tries

pytestmark = pytest.mark.skipif(not backend.COMPILED, reason="the inner loops are not compiled")

_NUMBERS = (None, 0, 1, -1, 2, 4, 127, 128, 255, 256, 2**16, 2**20 + 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -(2**63))
_ODD: tuple[object, ...] = (
    *_NUMBERS,
    True,
    1.5,
    "",
    "GPU",
    "full_attention",
    "x" * 40,
    "ä",
    b"x",
    [],
    [None],
    [1],
    {},
    {"a": 1},
)
_STORED: dict[str, tuple[object, ...]] = {
    "block_hashes": ([1], [2**64 - 1, -5], [], list(range(20))),
    "parent_block_hash": _NUMBERS,
    "token_ids": ([1, 2], [70_000, 2**32 - 1, 128, 3], [1, 2, 3], list(range(40)), [], [[1, 2], [2, 3]], [2**32]),
    "block_size": (2, 2, 2, 1, 0, None, 2**20 + 1),
    "lora_id": (None, None, 3),
    "medium": ("GPU", "GPU", None, "CPU", "gpu"),
    "lora_name": (None, None, "sql", "ä", "y" * 40),
    "extra_keys": (None, [None], [None, None], [], [["salt"]]),
    "group_idx": (None, 0, 1),
    "kv_cache_spec_kind": (None, "full_attention", "sliding_window", "mamba"),
    "kv_cache_spec_sliding_window": (None, 8),
    "locality": (None, "local"),
    "session_id": (None, "s1"),
    "lookahead_token_ids": (None, None, [], [[1]]),
    "cache_salt": (None, None, "salt"),
    "colour": _ODD,
    "x" * 40: _ODD,
    "type": ("BlockStored", "BlockRemoved"),
}
_REMOVED = ("block_hashes", "medium", "group_idx", "locality", "colour")


def test_both_readers_give_equal_events_for_random_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(11)
    common = 0
    tried = tries(1_000, 20_000)
    for _ in range(tried):
        payload = _payload(random)
        if random.random() < 0.2:
            payload = _damaged(payload, random)
        common += _is_common(payload)
        read = _read(payload)
        with monkeypatch.context() as patched:
            patched.setattr(wire, "read_common_batch", fallback.read_common_batch)
            assert read == _read(payload), payload
    assert common > tried // 10


@pytest.mark.parametrize("name", ["a_simple", "f_steps", "b3_copy_left"])
def test_batches_that_vllm_0_33_sends_have_the_common_form(recordings: Path, name: str) -> None:
    with (recordings / f"{name}.jsonl").open("rb") as lines:
        payloads = [recorded.payload for recorded in Recording(lines)]
    assert payloads
    assert all(map(_is_common, payloads))


def test_a_truncated_batch_is_not_read() -> None:
    payload = _packed([_event(Random(1), {name: values[0] for name, values in _STORED.items() if name != "type"})])
    assert _is_common(payload)
    assert not any(_is_common(payload[:end]) for end in range(len(payload)))
    assert not _is_common(payload + b"\xc0")


def _read(payload: bytes) -> str:
    try:
        return repr(read_batch(payload))  # a timestamp may be NaN, which equals nothing
    except WireError as error:
        return str(error)


def _is_common(payload: bytes) -> bool:
    return backend.read_common_batch(payload, Stored, Removed, Tier.GPU) is not None


def _payload(random: Random) -> bytes:
    events = [_event(random, _fields(random)) for _ in range(random.choice((0, 1, 1, 2, 3, 20)))]
    return _packed(events, random)


def _packed(events: list[object], random: Random | None = None) -> bytes:
    batch: list[object] = [1.5, events, 0]
    if random is not None and random.random() < 0.2:
        odd: list[object] = [random.choice((1.5, 7, None, "x")), events, random.choice(_NUMBERS), None]
        batch = odd[: random.choice((2, 3, 4))]
    return msgspec.msgpack.encode(batch)


def _fields(random: Random) -> dict[str, Any]:
    """Some fields, mostly in order, of mostly one block."""
    fields: dict[str, Any] = {"block_hashes": [5], "token_ids": [1, 2], "block_size": 2}
    for name in random.sample(list(_STORED), random.randrange(4)):
        fields[name] = random.choice(_ODD if random.random() < 0.1 else _STORED[name])
    if random.random() < 0.1:
        del fields[random.choice(list(fields))]
    return fields


def _event(random: Random, fields: dict[str, Any]) -> object:
    draw = random.random()
    if draw < 0.03:
        return {"type": "AllBlocksCleared"}
    if draw < 0.06:
        return ["BlockRemoved", [1]]
    if draw < 0.3:
        return {"type": "BlockRemoved", **{name: value for name, value in fields.items() if name in _REMOVED}}
    return {"type": "BlockStored", **fields}


def _damaged(payload: bytes, random: Random) -> bytes:
    damaged = bytearray(payload)
    for _ in range(random.randint(1, 3)):
        damaged[random.randrange(len(damaged))] = random.randrange(256)
    return bytes(damaged[: random.randint(1, len(damaged))] if random.random() < 0.3 else damaged)
