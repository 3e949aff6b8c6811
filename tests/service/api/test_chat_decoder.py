"""A chat that continues an earlier one is decoded as if it were the first."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import partial
from random import Random
from typing import Any

import msgspec
import pytest

from service.api.chat_decoder import ChatDecoder
from service.native import backend
from service.prompts.chat import Chat

pytestmark = pytest.mark.skipif(not backend.COMPILED, reason="only the compiled loops find the messages of a body")

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


def decoded(decoder: ChatDecoder[Chat], body: bytes) -> Chat:
    """The chat of a body, after a check that what is around its messages is all of its other fields."""
    chat, around = decoder.decode(body)
    assert around is None or json.loads(around) == {**json.loads(body), "messages": []}
    return chat


def outcome(decode: Any, body: bytes) -> Any:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return type(error), str(error)


def test_turns_of_chats_are_decoded_as_if_each_were_the_first() -> None:
    random = Random(1)
    counting = Counting()
    decoder = ChatDecoder(counting, 1 << 20)
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
        assert outcome(partial(decoded, decoder), body) == expected
        assert outcome(partial(decoded, decoder), body) == expected
        assert 0 <= decoder.size_bytes <= decoder.capacity
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
def test_any_continuation_is_decoded_as_if_it_were_the_first(rest: str) -> None:
    counting = Counting()
    decoder = ChatDecoder(counting, 1 << 20)
    start = b'{"messages":' + msgspec.json.encode(HISTORY)[:-1]
    assert decoded(decoder, start + b"]}") == _decode(start + b"]}")
    counting.decoded = 0
    body = start + rest.encode()
    assert outcome(partial(decoded, decoder), body) == outcome(_decode, body)
    assert outcome(partial(decoded, decoder), body) == outcome(_decode, body)
    assert counting.decoded > 0


def test_only_new_messages_are_decoded() -> None:
    counting = Counting()
    decoder = ChatDecoder(counting, 1 << 20)
    messages: list[dict[str, Any]] = []
    for turn in range(20):
        messages += [{"role": "user", "content": f"{turn} " * 1000}, {"role": "assistant", "content": "yes"}]
        body = msgspec.json.encode({"model": "m", "messages": messages, "add_generation_prompt": False})
        counting.decoded = 0
        chat = decoded(decoder, body)
        assert chat.messages == messages
        assert not chat.add_generation_prompt
        assert turn < 3 or counting.decoded < len(body) / 2


def test_decoded_messages_are_not_changed_by_later_turns() -> None:
    decoder = ChatDecoder(_decode, 1 << 20)
    body = msgspec.json.encode({"messages": HISTORY})
    first = decoded(decoder, body)
    seen = deepcopy(first.messages)
    decoder.decode(msgspec.json.encode({"messages": [*HISTORY, {"role": "user", "content": "z"}]}))
    assert first.messages == seen == decoded(decoder, body).messages


def test_the_least_recently_used_chats_are_evicted_at_capacity() -> None:
    decoder = ChatDecoder(_decode, 100_000)
    for number in range(100):
        decoder.decode(msgspec.json.encode({"messages": [{"role": "user", "content": str(number) * 5000}]}))
        assert decoder.size_bytes <= decoder.capacity
    assert decoder.size_bytes > decoder.capacity / 2


def test_with_capacity_0_nothing_is_kept() -> None:
    decoder = ChatDecoder(_decode, 0)
    decoder.decode(msgspec.json.encode({"messages": HISTORY}))
    assert decoder.size_bytes == 0
