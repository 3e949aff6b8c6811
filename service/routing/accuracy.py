"""Predictions held against what engines say that they did: the `usage` of their answers.

A model whose token counts differ from ours loses its parity. A rank that keeps reusing less or more than its events
tell is inexact. One that keeps reusing exactly one block less runs EAGLE, which no event tells: the index corrects it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from service.fleet.parity import Parity, Verdict
from service.fleet.registry import Pod, Registry
from service.index.base import Index, Rank
from service.index.inexact_reasons import InexactReason
from service.routing.choice import Basis, Choice
from service.routing.question import Question

logger = logging.getLogger(__name__)

_PROMPT_TOKENS: Final = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_GENERATED_TOKENS: Final = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
_CACHED_TOKENS: Final = re.compile(rb'"(?:cached_tokens|cache_read_input_tokens)"\s*:\s*(\d{1,9})')
_BESIDE_INPUT: Final = re.compile(rb'"cache_(read|creation)_input_tokens"\s*:\s*(\d{1,9})')
"""Prompt tokens that Anthropic's API does not count as `input_tokens`; some versions of SGLang count them there too."""
_USAGE: Final = b'"usage"'
_WINDOW: Final = 32
_MIN_JUDGED: Final = 8


class Usage(NamedTuple):
    """Prompt tokens and generated tokens of an answer; None if the engine does not tell them."""

    prompt: int
    cached: int | None
    generated: int | None = None
    is_certain: bool = True
    """Whether the engine cannot mean another number of prompt tokens."""


class Delivery(StrEnum):
    """The reused tokens compared with the prediction."""

    UNKNOWN = "unknown"
    EQUAL = "equal"
    LESS = "less"
    MORE = "more"


_REASONS: Final = {
    Delivery.LESS: InexactReason.REUSES_LESS,
    Delivery.MORE: InexactReason.REUSES_MORE,
}


def usage_in(data: bytes, expected: int | None = None) -> Usage | None:
    """The last usage in a piece of an answer; None without one.

    Of the two numbers of prompt tokens that an answer in Anthropic's form can mean, it has the `expected` one.
    """
    start = data.rfind(_USAGE)
    while start >= 0:
        prompt = _PROMPT_TOKENS.search(data, start)
        if prompt is not None:
            cached = _CACHED_TOKENS.search(data, start)
            generated = _GENERATED_TOKENS.findall(data, start)  # a later usage of Anthropic's form may have only these
            tokens = int(prompt[1])
            beside = {name: int(count) for name, count in reversed(_BESIDE_INPUT.findall(data, start))}
            total = tokens + sum(beside.values())
            return Usage(
                prompt=tokens if tokens == expected else total,
                cached=int(cached[1]) if cached else None,
                generated=int(generated[-1]) if generated else None,
                is_certain=total == tokens or expected in {tokens, total},
            )
        start = data.rfind(_USAGE, 0, start)  # `"usage": null` in the last chunk
    return None


class PodAccuracy(msgspec.Struct):
    """Counters of one pod, over all answers that had a usage, in tokens and requests."""

    prompt_tokens: int = 0
    available_tokens: int = 0
    """Held by the best rank of the fleet."""
    captured_tokens: int = 0
    """Held by the chosen rank."""
    delivered_tokens: int = 0
    """Reused by the engine."""
    requests: Counter[str] = msgspec.field(default_factory=Counter)
    """By delivery, and `tokens_differ`."""


class _Recent(NamedTuple):
    predicted: int
    delivered: int
    block_size: int


class _RankWindow:
    """The last informative answers of one rank, and the verdict on them."""

    __slots__ = ("recent", "verdict")

    def __init__(self) -> None:
        self.recent: deque[_Recent] = deque(maxlen=_WINDOW)
        self.verdict = Delivery.UNKNOWN

    def judged(self) -> Delivery:
        if len(self.recent) < _MIN_JUDGED:
            return self.verdict
        counts = Counter(compared(one.predicted, one.delivered) for one in self.recent)
        for delivery in (Delivery.LESS, Delivery.MORE):
            if 2 * counts[delivery] > len(self.recent):
                return delivery
        return Delivery.EQUAL if 4 * counts[Delivery.EQUAL] >= 3 * len(self.recent) else self.verdict

    def loses_last_block(self) -> bool:
        """Whether nearly all answers lack exactly the last block of what was predicted."""
        lost = sum(one.predicted > 0 and one.predicted - one.delivered == one.block_size for one in self.recent)
        return len(self.recent) >= _MIN_JUDGED and 8 * lost >= 7 * len(self.recent)


def compared(predicted: int, delivered: int) -> Delivery:
    if predicted == delivered:
        return Delivery.EQUAL
    return Delivery.LESS if delivered < predicted else Delivery.MORE


class Accuracy:
    """Judges the answers of all pods."""

    def __init__(self, registry: Registry, index: Index) -> None:
        self._registry = registry
        self._index = index
        self.pods: dict[Pod, PodAccuracy] = {}
        self._windows: dict[tuple[Pod, int], _RankWindow] = {}
        self._counts: dict[tuple[Pod, str], deque[bool]] = {}
        registry.watch(self._changed)

    def verdict(self, pod: Pod) -> Delivery:
        """The verdict on a pod: that of its worst rank."""
        verdicts = {window.verdict for (owner, _), window in self._windows.items() if owner is pod}
        order = (Delivery.LESS, Delivery.MORE, Delivery.UNKNOWN, Delivery.EQUAL)
        return next((one for one in order if one in verdicts), Delivery.UNKNOWN)

    def note(self, choice: Choice, question: Question, usage: Usage) -> None:
        """Compares an answer with its prediction, and acts on what the last answers have in common.

        The usage must tell about this prompt, and nothing else.
        """
        pod = choice.pod
        if self._registry.get(pod.name) is not pod:
            return
        counted = self.pods.setdefault(pod, PodAccuracy())
        tokens_equal = usage.prompt == question.tokens
        if question.model is not None:
            self._note_count(pod, question.model, question, usage.prompt)
        if not tokens_equal:
            counted.requests["tokens_differ"] += 1
            return
        if usage.cached is None or choice.basis is Basis.PLACEMENT:
            return
        last = usage.prompt - 1
        counted.prompt_tokens += usage.prompt
        counted.available_tokens += min(question.matches.longest, last)
        counted.captured_tokens += choice.predicted
        counted.delivered_tokens += usage.cached
        counted.requests[compared(choice.predicted, usage.cached)] += 1
        if choice.predicted or usage.cached:
            self._note_delivery(choice, usage.cached)

    def _note_delivery(self, choice: Choice, delivered: int) -> None:
        window = self._windows.setdefault((choice.pod, choice.rank), _RankWindow())
        window.recent.append(_Recent(choice.predicted, delivered, choice.block_size))
        name = f"{choice.pod.name} (rank {choice.rank})"
        if window.loses_last_block():
            for rank in self._ranks(choice):
                self._index.drop_last_block(rank)
            window.recent.clear()
            logger.warning("%s reuses one block less than it announces, as with EAGLE: predictions leave it out", name)
            return
        verdict = window.judged()
        if verdict is window.verdict:
            return
        if {verdict, window.verdict} != {Delivery.UNKNOWN, Delivery.EQUAL}:
            if verdict in _REASONS:
                logger.warning("%s reuses %s tokens than predicted", name, verdict)
            else:
                logger.info("%s reuses the predicted tokens again", name)
        window.verdict = verdict
        for rank in self._ranks(choice):
            self._index.observe(rank, _REASONS.get(verdict))

    def _ranks(self, choice: Choice) -> list[Rank]:
        """The ranks of the index that events of the chosen one belong to."""
        return [
            blocks.rank
            for blocks in self._index.ranks()
            if blocks.rank.number == choice.rank and self._registry.name_of(blocks.rank.pod) == choice.pod.name
        ]

    def _note_count(self, pod: Pod, model: str, question: Question, counted: int) -> None:
        """Takes a model's parity if most of its last token counts differ."""
        window = self._counts.setdefault((pod, model), deque(maxlen=_MIN_JUDGED))
        window.append(question.tokens == counted)
        if len(window) < _MIN_JUDGED or 2 * sum(window) > len(window):
            return
        window.clear()
        known = pod.parity.get(model)
        if known is not None and known.verdict is Verdict.DIFFERS and not known.confined:
            return
        reason = f"its engine counted {counted} tokens in a prompt of {question.tokens} tokens here"
        remedy = f"kvcache parity {pod.entry.url} shows the difference"
        self._registry.set_parity(pod, model, Parity(Verdict.DIFFERS, Verdict.DIFFERS, reason=reason, remedy=remedy))
        logger.warning("Tokens of %s differ from those of %s: %s", model, pod.name, reason)

    def _changed(self, pod: Pod, is_there: bool) -> None:
        if not is_there:
            self.pods.pop(pod, None)
            self._windows = {key: window for key, window in self._windows.items() if key[0] is not pod}
            self._counts = {key: window for key, window in self._counts.items() if key[0] is not pod}
