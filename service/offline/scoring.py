"""Scores prompts at moments of a recording, and compares with the engines' own results where these are known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

import msgspec

from service.contract.tier_weights import TierWeights
from service.events.recording import recorded_pod
from service.index.base import Index, RankMatch
from service.index.scoring import pod_scores
from service.offline.feed import Feed
from service.offline.prompt_lines import NumberedLine, PromptLine, read_prompt
from service.offline.schedule import Schedule
from service.prompts.models.catalog import Models


class Scored(msgspec.Struct, tag="prompt", tag_field="kind"):
    """The answer to one prompt, with the recorded names of pods; `matched` is in tokens.

    `reached`: whether the recording contains the requested moment. `differences` is None without engine results to
    compare with.
    """

    line: int
    tokens: int
    scores: dict[str, int | float] | None
    matched: dict[str, int]
    reached: bool
    differences: list[str] | None


class Scorer:
    """Scores prompts against an index that a feed fills."""

    def __init__(
        self, index: Index, feed: Feed, models: Models, *, model: str, weights: TierWeights, unit: int
    ) -> None:
        self._index = index
        self._feed = feed
        self._models = models
        self._model = model
        self._weights = weights
        self._unit = unit

    async def timed(self, prompts: Iterable[NumberedLine], schedule: Schedule) -> AsyncIterator[Scored]:
        """Answers the prompts with a moment, advancing the recording to each."""
        for numbered in prompts:
            line = numbered.line
            if line.before is not None:
                yield await self._score(numbered, reached=schedule.reach(line.before))
            elif line.after is not None:
                yield await self._score(numbered, reached=schedule.reach_message(line.after))

    async def final(self, prompts: Iterable[NumberedLine]) -> AsyncIterator[Scored]:
        """Answers the prompts without a moment."""
        for numbered in prompts:
            if numbered.line.at_end:
                yield await self._score(numbered, reached=True)

    async def _score(self, numbered: NumberedLine, *, reached: bool) -> Scored:
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
        """The model of the pod that served the prompt, if the line names one; else the default."""
        names = [line.pod] if line.pod else list(line.blocks or ())
        ranks = filter(None, map(self._feed.rank, names))
        return next((rank.model for rank in ranks), self._model)


def differences(line: PromptLine, tokens: int, matches: Iterable[RankMatch]) -> list[str] | None:
    """The differences between index and engine; None if the line has no engine result.

    An engine always computes the last token of a prompt, so it reuses only whole blocks that end before it.
    """
    found = {recorded_pod(match.rank): match for match in matches}
    claimed: dict[str, tuple[int, int]] = {}
    if line.pod is not None and line.cached_tokens is not None:
        claimed[line.pod] = line.cached_tokens, _reusable(found, line.pod, tokens)
    if line.pod is not None and line.leading_blocks is not None:
        claimed[line.pod] = line.leading_blocks, _blocks(found, line.pod)
    for pod, count in (line.blocks or {}).items():
        claimed[pod] = count, _blocks(found, pod)
    if not claimed:
        return None
    unit = "tokens" if line.cached_tokens is not None else "blocks"
    return [
        f"{pod} had {engine} {unit}, the index has {index}"
        for pod, (engine, index) in claimed.items()
        if engine != index
    ]


def _reusable(found: Mapping[str, RankMatch], pod: str, tokens: int) -> int:
    match = found.get(pod)
    return min(match.tokens, (tokens - 1) // match.block_size * match.block_size) if match else 0


def _blocks(found: Mapping[str, RankMatch], pod: str) -> int:
    match = found.get(pod)
    return match.tokens // match.block_size if match else 0
