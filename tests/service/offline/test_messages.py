from __future__ import annotations

import json
from typing import Any

import msgpack

from service.events.recording import Recorded, Recording
from service.offline.messages import message_line
from tests.conftest import ROOT

STORED = {"type": "BlockStored", "block_hashes": [b"\x01\xff"], "token_ids": [1, 2], "of_a_later_release": {7: None}}
REMOVED = {"type": "BlockRemoved", "block_hashes": [5]}


def shown(payload: bytes) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(message_line(Recorded("a:1", b"kv@a:1@m", 3, payload)))
    return line


def test_a_message_is_shown_with_all_its_fields_and_bytes_in_hexadecimal() -> None:
    assert shown(msgpack.packb([1.5, [STORED, REMOVED], 2])) == {
        "pod": "a:1",
        "topic": "kv@a:1@m",
        "sequence": 3,
        "batch": [1.5, [{**STORED, "block_hashes": ["01ff"], "of_a_later_release": {"7": None}}, REMOVED], 2],
    }


def test_a_damaged_message_is_shown_up_to_the_damage() -> None:
    whole = msgpack.packb([1.5, [REMOVED, STORED], 0])
    second = whole.index(msgpack.packb(STORED))
    for damaged in (whole[: second + 20], whole[: second + 1] + b"\xc1" + whole[second + 2 :]):
        line = shown(damaged)
        assert line["batch"] == [1.5, [REMOVED]]
        assert line["damaged"].startswith("byte ")
        assert second <= int(line["damaged"].split()[1]) <= second + 20


def test_a_payload_that_is_no_batch_is_shown_as_empty_and_damaged() -> None:
    for payload in (b"", b"\xc1", msgpack.packb(5), msgpack.packb("text"), msgpack.packb({"a": 1})):
        assert (shown(payload)["batch"], shown(payload)["damaged"]) == ([], f"byte 0 of {len(payload)}")


def test_deep_nesting_and_text_that_is_not_utf_8_are_damage() -> None:
    assert "damaged" in shown(b"\x93\xcb" + b"\x00" * 8 + b"\x91" * 5000)
    assert "damaged" in shown(b"\x91\xa1\xff")


def test_every_message_of_a_recording_is_shown_whole() -> None:
    with (ROOT / "tests/recordings/c_lora_salt.jsonl").open("rb") as lines:
        shown_lines = [json.loads(message_line(message)) for message in Recording(lines)]
    assert shown_lines
    assert not any("damaged" in line for line in shown_lines)
    assert {event["type"] for line in shown_lines for event in line["batch"][1]} >= {"BlockStored"}
