from __future__ import annotations

import logging
from array import array

import pytest

from service.fleet.parity import Parity, Verdict
from service.index.base import Prompt, Rank, Stored
from service.index.memory import MemoryIndex
from service.routing.accuracy import Accuracy, Delivery, Usage, usage_in
from service.routing.choice import Choice
from service.routing.question import Question
from tests.service.routing.fleets import MODEL, Fleet, text

PROMPT = text(1, 256)
LONGER = PROMPT + text(2, 8)


class Judged:
    """A pod that announces the blocks of one prompt, and the judge of its answers."""

    def __init__(self) -> None:
        self.fleet = Fleet(1)
        (self.pod,) = self.fleet.pods
        self.index = MemoryIndex(10_000)
        self.rank = Rank(self.pod.name, MODEL)
        self.index.store(self.rank, Stored(list(range(1, 17)), None, PROMPT, 16))
        self.accuracy = Accuracy(self.fleet.registry, self.index)

    def ask(self, tokens: array[int] = LONGER, counted: int = 0, *, cached: int | None = None) -> Choice:
        """Asks, and lets the engine say how many tokens it counted and reused; by default as predicted."""
        matches = self.index.match_together(Prompt(MODEL, tokens))
        question = Question(model=MODEL, tokens=len(tokens), matches=matches)
        choice = self.fleet.router.choose(question)
        assert choice is not None
        usage = Usage(counted or len(tokens), choice.predicted if cached is None else cached)
        self.accuracy.note(choice, question, usage)
        choice.reservation.end(self.fleet.now)
        return choice

    def verdict(self) -> Delivery:
        return self.accuracy.verdict(self.pod)


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (b'{"usage":{"prompt_tokens":12,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":8}}}', Usage(12, 8)),
        (b'{"usage": {"prompt_tokens": 12, "prompt_tokens_details": null}}', Usage(12, None)),
        (b'{"usage": {"prompt_tokens": 12, "total_tokens": 15, "completion_tokens": 3}}', Usage(12, None, 3)),
        (b'data: {"usage":{"prompt_tokens":5}}\n\ndata: {"choices":[],"usage":null}\n\ndata: [DONE]', Usage(5, None)),
        (b'{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4}}}', Usage(9, 4)),
        (b'{"usage":{"input_tokens":9,"output_tokens":2}}', Usage(9, None, 2)),
        (
            b'{"usage":{"input_tokens":5,"cache_read_input_tokens":4,"cache_creation_input_tokens":3,"output_tokens":2}}',
            Usage(12, 4, 2, is_certain=False),
        ),
        (
            b'data: {"message":{"usage":{"input_tokens":10,"cache_read_input_tokens":90,"output_tokens":0}}}\n\n'
            b'data: {"type":"message_delta","usage":{"output_tokens":5}}\n\n',
            Usage(100, 90, 5, is_certain=False),
        ),
        (
            b'data: {"message":{"usage":{"input_tokens":10,"cache_read_input_tokens":90,"output_tokens":0}}}\n\n'
            b'data: {"type":"message_delta","usage":{"cache_read_input_tokens":90,"output_tokens":5}}\n\n',
            Usage(100, 90, 5, is_certain=False),
        ),
        (b'{"content":"\\"usage\\":{\\"prompt_tokens\\":7}"}', None),
        (b"", None),
    ],
)
def test_usage_is_read_from_the_end_of_an_answer(answer: bytes, usage: Usage | None) -> None:
    assert usage_in(answer) == usage


@pytest.mark.parametrize(
    ("expected", "usage"),
    [
        (100, Usage(100, 90, 5)),
        (190, Usage(190, 90, 5)),
        (120, Usage(190, 90, 5, is_certain=False)),
        (None, Usage(190, 90, 5, is_certain=False)),
    ],
)
def test_input_tokens_may_include_the_reused_ones_if_these_are_expected(expected: int | None, usage: Usage) -> None:
    answer = b'{"usage":{"input_tokens":100,"cache_read_input_tokens":90,"output_tokens":5}}'
    assert usage_in(answer, expected) == usage


def test_input_tokens_of_which_none_are_reused_are_certain() -> None:
    answer = b'{"usage":{"input_tokens":100,"cache_read_input_tokens":0,"output_tokens":5}}'
    assert usage_in(answer, 120) == Usage(100, 0, 5)


def test_answers_as_predicted_make_a_pod_equal() -> None:
    judged = Judged()
    assert judged.verdict() is Delivery.UNKNOWN
    for _ in range(8):
        judged.ask()
    assert judged.verdict() is Delivery.EQUAL
    counted = judged.accuracy.pods[judged.pod]
    assert (counted.prompt_tokens, counted.delivered_tokens) == (8 * 264, 8 * 256)
    assert (counted.available_tokens, counted.captured_tokens) == (8 * 256, 8 * 256)
    assert counted.requests == {"equal": 8}


def test_a_single_difference_changes_nothing() -> None:
    judged = Judged()
    for number in range(32):
        judged.ask(cached=0 if number % 8 == 3 else None)
    assert judged.verdict() is Delivery.EQUAL
    assert judged.index.inexact_reason(judged.rank) is None


def test_a_rank_that_keeps_reusing_less_is_inexact_until_it_does_not(caplog: pytest.LogCaptureFixture) -> None:
    judged = Judged()
    with caplog.at_level(logging.INFO):
        for _ in range(12):
            judged.ask(cached=64)
        assert judged.verdict() is Delivery.LESS
        assert judged.index.inexact_reason(judged.rank) == "the engine keeps reusing less than its events tell"
        for _ in range(32):
            judged.ask()
    assert judged.verdict() is Delivery.EQUAL
    assert judged.index.inexact_reason(judged.rank) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{judged.pod.name} (rank 0) reuses less tokens than predicted",
        f"{judged.pod.name} (rank 0) reuses the predicted tokens again",
    ]


def test_a_rank_that_keeps_reusing_more_is_inexact() -> None:
    judged = Judged()
    for _ in range(12):
        judged.ask(text(9, 512), cached=256)
    assert judged.verdict() is Delivery.MORE
    assert judged.index.inexact_reason(judged.rank) == "the engine keeps reusing more than its events tell"


def test_a_rank_that_loses_its_last_block_is_corrected_once(caplog: pytest.LogCaptureFixture) -> None:
    judged = Judged()
    for _ in range(8):
        assert judged.ask(cached=240).predicted == 256
    for _ in range(32):
        assert judged.ask(cached=240).predicted == 240
    assert judged.verdict() is Delivery.EQUAL
    assert judged.index.inexact_reason(judged.rank) is None
    assert len(caplog.records) == 1


def test_a_model_whose_token_counts_differ_loses_its_parity_once(caplog: pytest.LogCaptureFixture) -> None:
    judged = Judged()
    for _ in range(24):
        judged.ask(counted=270)
    parity = judged.pod.parity[MODEL]
    assert parity.verdict is Verdict.DIFFERS
    assert parity.reason == "its engine counted 270 tokens in a prompt of 264 tokens here"
    assert len(caplog.records) == 1
    assert judged.accuracy.pods[judged.pod].requests == {"tokens_differ": 24}


def test_a_model_of_which_few_chats_are_known_to_differ_loses_its_parity_for_all() -> None:
    judged = Judged()
    confined = (frozenset({"reasoning"}),)
    known = Parity(Verdict.DIFFERS, Verdict.EQUAL, differing=("reasoning",), confined=confined)
    judged.fleet.registry.set_parity(judged.pod, MODEL, known)
    assert judged.pod.parity[MODEL].of(chat=True, features=frozenset()) is Verdict.EQUAL
    for _ in range(24):
        judged.ask(counted=270)
    assert judged.pod.parity[MODEL].of(chat=True, features=frozenset()) is Verdict.DIFFERS


def test_a_pod_that_is_removed_leaves_nothing_behind() -> None:
    judged = Judged()
    for _ in range(8):
        judged.ask()
    judged.fleet.registry.remove(judged.pod.name)
    assert not judged.accuracy.pods
    assert judged.verdict() is Delivery.UNKNOWN
