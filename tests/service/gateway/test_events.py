"""Events are seen whole, wherever servers between the engine and this one cut them."""

from __future__ import annotations

from random import Random

import pytest

from service.gateway.events import Events, before_answer

TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n'
ABORT = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"abort"}]}\n\n'
CORE_DIED = b'data: {"error":{"message":"EngineCore has died","code":500}}\n\n'
DONE = b"data: [DONE]\n\n"


def cut(data: bytes, seed: int) -> list[bytes]:
    random = Random(seed)
    places = sorted(random.sample(range(1, len(data)), random.randrange(len(data) - 1)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_the_usage_is_hidden_wherever_it_is_cut(line_end: bytes) -> None:
    stream, shown = (data.replace(b"\n", line_end) for data in (TOKEN + USAGE + DONE, TOKEN + DONE))
    for seed in range(100):
        events = Events(hides_usage=True)
        passed = b"".join([*map(events.passed, cut(stream, seed)), events.rest()])
        assert passed == shown


def test_an_event_without_an_end_is_passed_at_the_end_of_the_stream() -> None:
    events = Events(hides_usage=True)
    assert events.passed(TOKEN + b"data: 1") == TOKEN
    assert events.rest() == b"data: 1"


def test_a_long_event_is_not_held_back() -> None:
    events, long = Events(hides_usage=True), b"data: " + 30_000 * b"x"
    assert events.passed(long) == long
    assert events.passed(b"\n\n" + USAGE) == b"\n\n"


def test_without_something_to_hide_every_piece_is_passed_as_it_came() -> None:
    for seed in range(20):
        events, pieces = Events(), cut(TOKEN + USAGE + DONE, seed)
        assert list(map(events.passed, pieces)) == pieces
        assert events.is_between
        assert events.rest() == b""


@pytest.mark.parametrize("failure", [ABORT, CORE_DIED])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("hides_usage", [False, True])
def test_a_failure_is_found_wherever_it_is_cut_and_nothing_passes_behind_it(
    failure: bytes, line_end: bytes, hides_usage: bool
) -> None:
    before, failed, after = (data.replace(b"\n", line_end) for data in (TOKEN, failure, DONE))
    for seed in range(100):
        events = Events(hides_usage=hides_usage)
        passed = b""
        for piece in cut(before + failed + after, seed):
            passed += events.passed(piece)
            if events.failure is not None:
                break
        assert events.failure is not None
        assert passed.startswith(before)
        assert (before + failed).startswith(passed)
        assert events.is_between == (passed == before)


def test_whole_events_in_whole_chunks_need_not_be_looked_at() -> None:
    events = Events(hides_usage=True)
    framed = b"9\r\ndata: 1\n\n\r\n"
    assert events.may_pass(framed + framed)
    assert not events.may_pass(b"8\r\ndata: 1\n\r\n"), "the event may go on"
    assert not events.may_pass(b"%x\r\n%b\r\n" % (len(USAGE), USAGE))
    assert not events.may_pass(b"%x\r\n%b\r\n" % (len(ABORT), ABORT))
    assert events.passed(b"data: 1\n") == b""
    assert not events.may_pass(framed), "an event has begun"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_comments_and_events_that_come_before_the_prompt_is_computed_begin_no_answer(line_end: bytes) -> None:
    created = b'event: response.created\ndata: {"response":{}}\n\nevent: response.in_progress\ndata: {}\n\n'
    early = (b": keep-alive\n\n" + created).replace(b"\n", line_end)
    assert before_answer(b"") == before_answer(early) == b""
    for event in (TOKEN, b"event: response.output_item.added\ndata: {}\n\n", b"event: message_start\ndata: {}\n\n"):
        assert before_answer(event) is None
        assert before_answer(early + event.replace(b"\n", line_end)) is None


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("space", [b"", b" "])
def test_an_early_event_begins_no_answer_wherever_it_is_cut(line_end: bytes, space: bytes) -> None:
    long = b'{"instructions":"' + 300 * b"event: x " + b'"}'
    created = b"event:%bresponse.created\ndata:%b%b\n\nevent:%bping\ndata: {}\n\n" % (space, space, long, space)
    early = (b": ping\n\n" + created).replace(b"\n", line_end)
    for end in range(len(early) + 1):
        assert before_answer(early[:end]) is not None
    for seed in range(100):
        before: bytes | None = b""
        for piece in cut(early, seed):
            before = before_answer((before or b"") + piece)
            assert before is not None
            assert len(before) < 200
        assert before_answer((before or b"") + TOKEN) is None
        assert before_answer((before or b"") + b"event: token") is not None, "its name may go on"
        assert before_answer((before or b"") + b"event: token\n") is None
