"""That a chat which goes on from one that was decoded before is decoded as if it were the first."""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

import msgspec
import pytest

from service.api.chat_bodies import ChatBodies
from service.native import backend
from service.prompts.chat import Chat

pytestmark = pytest.mark.skipif(not backend.COMPILED, reason="without compiled loops no bodies are kept")

_decode = msgspec.json.Decoder(Chat).decode
TEXTS = ("", "plain", 'a "quoted" \\ word\\', "line\nline\t", "ü€😀", "\x01", '"messages":[{}]', "\\u0041 ]},{", "{[")


class Counting:
    """Decodes, and counts the bytes of it."""

    def __init__(self) -> None:
        self.decoded = 0

    def __call__(self, body: bytes) -> Chat:
        self.decoded += len(body)
        return _decode(body)


def message(random: Random) -> dict[str, Any]:
    text = "".join(random.choice(TEXTS) for _ in range(random.randrange(1, 200)))
    made: dict[str, Any] = {"role": random.choice(("user", "assistant", "tool")), "content": text}
    if random.random() < 0.2:
        made["content"] = [{"type": "text", "text": text}, {}]
    if random.random() < 0.2:
        arguments = {"a": [1, -2.5e9, None, True, text], "b": {}}
        made["tool_calls"] = [{"id": "1", "function": {"name": text[:9], "arguments": arguments}}]
    return made


def packed(random: Random, fields: dict[str, Any]) -> bytes:
    separators = random.choice(((",", ":"), (", ", ": "), (" ,\n", "\t:  ")))
    indent = random.choice((None, None, 1))
    body = json.dumps(fields, ensure_ascii=random.random() < 0.5, separators=separators, indent=indent).encode()
    return random.choice((b"", b" \n")) + body + random.choice((b"", b"\n "))


def outcome(decode: Any, body: bytes) -> Any:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return type(error), str(error)


def test_turns_of_chats_are_decoded_as_they_would_be_alone() -> None:
    random = Random(1)
    counting = Counting()
    bodies = ChatBodies(counting, 1 << 20)
    whole = 0
    chats: list[tuple[int, dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = []
    for _ in range(1500):
        if len(chats) < 6 or random.random() < 0.05:
            before = random.choice(({}, {"model": "m"}, {"tools": [{"messages": [{}]}], "n": -1.5e3, "x": None}))
            after = random.choice(({}, {"add_generation_prompt": False}, {"tools": [{"a": "[]}"}]}))
            chats = [*chats[-5:], (random.getrandbits(32), before, after, [message(random)])]
        seed, before, after, messages = random.choice(chats)
        action = random.random()
        if action < 0.6:
            messages += [message(random) for _ in range(random.randrange(1, 3))]
        elif action < 0.7:
            messages[-1:] = [message(random)]
        elif action < 0.75:
            del messages[random.randrange(len(messages) + 1) :]
        body = packed(Random(seed), {**before, "messages": messages, **after})
        if random.random() < 0.1:
            at = random.randrange(len(body))
            body = random.choice((body[:at], body[:at] + random.choice((b"]", b"}", b",", b'"', b"\xff")) + body[at:]))
        whole += len(body)
        expected = outcome(_decode, body)
        assert outcome(bodies.decode, body) == expected
        assert outcome(bodies.decode, body) == expected
        assert 0 <= bodies.size_bytes <= bodies.capacity
    assert counting.decoded < whole


HISTORY = [{"role": "user", "content": "x" * 5000}, {"role": "assistant", "content": "y"}]


@pytest.mark.parametrize(
    "rest",
    [
        ',{"role":"user","content":"z"}]}',
        "]}",
        " \n]\n}",
        ",]}",
        ",,{}]}",
        "}",
        '] ,"messages":[]}',
        '],"messages":[{}]}',
        '],"messages":[{},{"role":"user"}]}',
        '],"messages" : [{"role":"user"}]}',
        r'],"\u006dessages":[{"role":"user"}]}',
        ',{}],"tools":[{"messages":1}]}',
        ',{"role":"user"}],"tools":[{"messages":[{}]}],"messages":[{},{"a":1}]}',
        ',{"role":"user"},1]}',
        ',{"role":"user"}],"tools":1}',
        ',{"a":{"b":[[1,2],{"c":"]}"}]}},{"d":[]}],"x":[{"messages":2}]}',
        "",
        ",{",
    ],
)
def test_whatever_follows_is_read_as_it_would_be_alone(rest: str) -> None:
    counting = Counting()
    bodies = ChatBodies(counting, 1 << 20)
    start = b'{"messages":' + msgspec.json.encode(HISTORY)[:-1]
    assert bodies.decode(start + b"]}") == _decode(start + b"]}")
    counting.decoded = 0
    body = start + rest.encode()
    assert outcome(bodies.decode, body) == outcome(_decode, body)
    assert outcome(bodies.decode, body) == outcome(_decode, body)
    assert counting.decoded > 0


def test_only_what_is_new_is_decoded() -> None:
    counting = Counting()
    bodies = ChatBodies(counting, 1 << 20)
    messages: list[dict[str, Any]] = []
    for turn in range(20):
        messages += [{"role": "user", "content": f"{turn} " * 1000}, {"role": "assistant", "content": "yes"}]
        body = msgspec.json.encode({"model": "m", "messages": messages, "add_generation_prompt": False})
        counting.decoded = 0
        chat = bodies.decode(body)
        assert chat.messages == messages
        assert not chat.add_generation_prompt
        assert turn < 3 or counting.decoded < len(body) / 2


def test_what_is_remembered_does_not_change_with_what_comes_after() -> None:
    bodies = ChatBodies(_decode, 1 << 20)
    body = msgspec.json.encode({"messages": HISTORY})
    first = bodies.decode(body)
    seen = deepcopy(first.messages)
    bodies.decode(msgspec.json.encode({"messages": [*HISTORY, {"role": "user", "content": "z"}]}))
    assert first.messages == seen == bodies.decode(body).messages


def test_chats_are_let_go_when_there_is_no_room() -> None:
    bodies = ChatBodies(_decode, 100_000)
    for number in range(100):
        bodies.decode(msgspec.json.encode({"messages": [{"role": "user", "content": str(number) * 5000}]}))
        assert bodies.size_bytes <= bodies.capacity
    assert bodies.size_bytes > bodies.capacity / 2


def test_without_room_nothing_is_kept() -> None:
    bodies = ChatBodies(_decode, 0)
    bodies.decode(msgspec.json.encode({"messages": HISTORY}))
    assert bodies.size_bytes == 0
