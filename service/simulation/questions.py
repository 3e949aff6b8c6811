"""Expected reuse at moments of a recording, for comparison with an index in mid-stream."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.events.recording import Recorded
from service.index.base import Index, Prompt, Rank, RankMatch, Tier
from service.offline.feed import Feed


class Question(NamedTuple):
    """A prompt, its moment in the recording, and the number of its tokens that one rank would have reused then."""

    name: str
    """Its source: `row N` of a requests file, `probe N` of a truth file, from 1."""
    pod: str
    """The name of the rank in the recording: `POD`, or `POD#dpN`."""
    tokens: array[int]
    reused: int
    gpu_reused: int | None = None
    """Number of reused tokens on the device; None if the recording does not say."""
    lora_name: str | None = None
    cache_salt: str | None = None
    before: Mapping[str, int] | None = None
    """Each rank's last sequence number before the question, -1 for none; None to ask after the last batch."""
    whole: bool = False
    """Whether `reused` may count the whole prompt. An engine that serves it always computes its last token."""


class Answer(NamedTuple):
    """The answer of an index; `inexact` says why it may be wrong, None if it claims to be exact."""

    question: Question
    found: int
    gpu_found: int
    inexact: str | None

    @property
    def equal(self) -> bool:
        if self.question.gpu_reused not in (None, self.gpu_found):
            return False
        return self.found == self.question.reused


class _Row(msgspec.Struct):
    pod: str
    tokens: list[int]
    before: dict[str, int]
    cached_tokens: int | None = None
    gpu_tokens: int | None = None
    leading_blocks: int | None = None
    lora_name: str | None = None
    cache_salt: str | None = None


class _Probe(msgspec.Struct):
    tokens: list[int]
    blocks: dict[str, float]
    lora_name: str | None = None
    cache_salt: str | None = None


class _Truth(msgspec.Struct):
    block_size: int
    probes: list[_Probe]


def read_requests(path: Path, block_size: int) -> list[Question]:
    """The questions of a requests file; `block_size` is the unit of those that count blocks.

    Raises OSError and msgspec.DecodeError.
    """
    decoder = msgspec.json.Decoder(_Row)
    questions = [
        _question(f"row {number}", decoder.decode(line), block_size)
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
    ]
    if any(question.reused == len(question.tokens) and not question.whole for question in questions):
        return [question._replace(whole=True) for question in questions]
    return questions


def _question(name: str, row: _Row, block_size: int) -> Question:
    reused, whole = row.cached_tokens, False
    if row.leading_blocks is not None:
        reused, whole = row.leading_blocks * block_size, True
    if reused is None:
        raise msgspec.ValidationError(f"{name} has neither cached_tokens nor leading_blocks")
    tokens = array("I", row.tokens)
    return Question(name, row.pod, tokens, reused, row.gpu_tokens, row.lora_name, row.cache_salt, row.before, whole)


def read_truth(path: Path) -> tuple[list[Question], int]:
    """The questions of a truth file, and its block size. Raises OSError and msgspec.DecodeError.

    Probes count whole blocks, so each is asked with one more token, which an engine always computes.
    """
    truth = msgspec.json.decode(path.read_bytes(), type=_Truth)
    questions = []
    for number, probe in enumerate(truth.probes, 1):
        tokens = array("I", [*probe.tokens, 0])
        for pod, blocks in probe.blocks.items():
            reused = round(blocks * truth.block_size)
            lora, salt = probe.lora_name, probe.cache_salt
            questions.append(Question(f"probe {number}", pod, tokens, reused, None, lora, salt, None, whole=True))
    return questions, truth.block_size


class MissingBatch(Exception):
    """The recording lacks the batch before a question; the text names both."""


@dataclass(slots=True)
class Progress:
    """The messages of a recording per rank, released up to the moment of each question."""

    waiting: dict[str, deque[Recorded]]
    last: dict[str, int]

    @classmethod
    def of(cls, messages: Iterable[tuple[str, Recorded]]) -> Progress:
        """Groups messages by the name of their rank."""
        waiting: dict[str, deque[Recorded]] = {}
        for pod, message in messages:
            waiting.setdefault(pod, deque()).append(message)
        return cls(waiting, {})

    def until(self, question: Question) -> Iterator[Recorded]:
        """Releases the messages before a question. Raises MissingBatch."""
        if question.before is None:
            for messages in self.waiting.values():
                yield from messages
                messages.clear()
            return
        for pod, sequence in question.before.items():
            waiting = self.waiting.get(pod, deque())
            while self.last.get(pod, -1) != sequence:
                if not waiting:
                    raise MissingBatch(f"{question.name} is asked after batch {sequence} of {pod}, which is not there")
                message = waiting.popleft()
                self.last[pod] = message.sequence
                yield message


def asked(index: Index, rank: Rank | None, question: Question) -> tuple[int, int]:
    """The number of prompt tokens that a rank reuses according to an index: over all tiers, and on the device."""
    if rank is None:
        return 0, 0
    match = _match(index, rank, question, question.tokens)
    if match is not None and not question.whole and match.tokens >= len(question.tokens):
        # The last token is always computed.
        match = _match(index, rank, question, question.tokens[:-1])
    if match is None:
        return 0, 0
    return match.tokens, match.tokens_by_tier.get(Tier.GPU, 0)


def _match(index: Index, rank: Rank, question: Question, tokens: array[int]) -> RankMatch | None:
    prompt = Prompt(rank.model, tokens, question.lora_name, question.cache_salt, pods=(rank.pod,))
    return next((match for match in index.match(prompt) if match.rank == rank), None)


def answers(feed: Feed, index: Index, messages: Iterable[Recorded], questions: Iterable[Question]) -> Iterator[Answer]:
    """Applies a recording through `feed`, and asks `index` each question at its moment. Raises MissingBatch.

    Questions must be in the order of their moments.
    """
    progress = Progress.of((feed.read(message).name, message) for message in messages)
    for question in questions:
        for message in progress.until(question):
            feed.apply(message)
        yield answer(feed, index, question)


def answer(feed: Feed, index: Index, question: Question) -> Answer:
    """The current answer of `index`, after the batches applied by `feed`."""
    rank = feed.rank(question.pod)
    found, gpu_found = asked(index, rank, question)
    return Answer(question, found, gpu_found, feed.inexact_reason(rank) if rank else None)
