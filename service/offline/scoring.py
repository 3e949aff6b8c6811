"""Scores of prompts at moments of a recording, held against what the engines said where that is known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

import msgspec

from service.contract.tiers import TierWeights
from service.events.recording import recorded_pod
from service.index.base import Index, RankMatch
from service.index.scoring import pod_scores
from service.offline.feed import Feed
from service.offline.prompt_lines import Numbered, PromptLine, read_prompt
from service.offline.schedule import Schedule
from service.prompts.models.catalog import Models


class Scored(msgspec.Struct, tag="prompt", tag_field="kind"):
    """One prompt's answer. Pods are called as in the recording; `matched` is in tokens.

    `reached` is whether the moment that the line asks for is one of the recording; `differences` says where the engine
    said something else, None where it said nothing.
    """

    line: int
    tokens: int
    scores: dict[str, int | float] | None
    matched: dict[str, int]
    reached: bool
    differences: list[str] | None


class Scorer:
    """Asks an index that a feed fills."""

    def __init__(
        self, index: Index, feed: Feed, models: Models, *, model: str, weights: TierWeights, unit: int
    ) -> None:
        self._index = index
        self._feed = feed
        self._models = models
        self._model = model
        self._weights = weights
        self._unit = unit

    async def timed(self, prompts: Iterable[Numbered], schedule: Schedule) -> AsyncIterator[Scored]:
        """The answers to the prompts that are asked at a moment of the recording, which goes on as they do."""
        for numbered in prompts:
            line = numbered.line
            if line.before is not None:
                yield await self._ask(numbered, reached=schedule.reach(line.before))
            elif line.after is not None:
                yield await self._ask(numbered, reached=schedule.reach_message(line.after))

    async def final(self, prompts: Iterable[Numbered]) -> AsyncIterator[Scored]:
        """The answers to the prompts that are asked at the end."""
        for numbered in prompts:
            if numbered.line.at_end:
                yield await self._ask(numbered, reached=True)

    async def _ask(self, numbered: Numbered, *, reached: bool) -> Scored:
        prompt = await read_prompt(numbered, self._models, self._model_of(numbered.line))
        matches = self._index.match(prompt)
        return Scored(
            line=numbered.number,
            tokens=len(prompt.tokens),
            scores=pod_scores(matches, self._weights, self._unit),
            matched={recorded_pod(match.rank): match.tokens for match in matches},
            reached=reached,
            differences=differences(numbered.line, len(prompt.tokens), matches),
        )

    def _model_of(self, line: PromptLine) -> str:
        """The model of the pod that served the prompt, where the line names one; else the default."""
        names = [line.pod] if line.pod else list(line.blocks or ())
        ranks = filter(None, map(self._feed.rank, names))
        return next((rank.model for rank in ranks), self._model)


def differences(line: PromptLine, tokens: int, matches: Iterable[RankMatch]) -> list[str] | None:
    """Where an engine said something else than the index; None if it said nothing.

    An engine computes at least the last token of a prompt, so of its whole leading blocks it reuses only those that end
    before that.
    """
    found = {recorded_pod(match.rank): match for match in matches}
    said: dict[str, tuple[int, int]] = {}
    if line.pod is not None and line.cached_tokens is not None:
        said[line.pod] = line.cached_tokens, _reusable(found, line.pod, tokens)
    if line.pod is not None and line.leading_blocks is not None:
        said[line.pod] = line.leading_blocks, _blocks(found, line.pod)
    for pod, count in (line.blocks or {}).items():
        said[pod] = count, _blocks(found, pod)
    if not said:
        return None
    unit = "tokens" if line.cached_tokens is not None else "blocks"
    return [
        f"{pod} had {engine} {unit}, the index says {index}" for pod, (engine, index) in said.items() if engine != index
    ]


def _reusable(found: Mapping[str, RankMatch], pod: str, tokens: int) -> int:
    match = found.get(pod)
    return min(match.tokens, (tokens - 1) // match.block_size * match.block_size) if match else 0


def _blocks(found: Mapping[str, RankMatch], pod: str) -> int:
    match = found.get(pod)
    return match.tokens // match.block_size if match else 0
