"""Whether the tokens computed here equal those of a pod's engine, as found by asking the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """`unknown` before the first comparison, and if engine or tokenizer cannot be asked."""

    EQUAL = "equal"
    DIFFERS = "differs"
    UNKNOWN = "unknown"

    @classmethod
    def of_all(cls, verdicts: Collection[Verdict]) -> Verdict:
        """The verdict on several: one that differs decides, then one that is unknown; `unknown` for none."""
        if not verdicts:
            return cls.UNKNOWN
        return next((one for one in (cls.DIFFERS, cls.UNKNOWN) if one in verdicts), cls.EQUAL)


class Difference(msgspec.Struct, frozen=True):
    """The first request whose tokens differ.

    `position` is the index of the first differing token; `here` and `engine` are the texts from there on, shortened.
    """

    request: str
    position: int
    here: str
    engine: str


class Parity(msgspec.Struct, frozen=True):
    """The result for one pod and model. `chats` and `texts` are the verdicts on the two kinds of requests."""

    chats: Verdict = Verdict.UNKNOWN
    texts: Verdict = Verdict.UNKNOWN
    compared: int = 0
    """Number of requests that both rendered."""
    differing: tuple[str, ...] = ()
    """Names of the requests whose tokens differ."""
    confined: tuple[frozenset[str], ...] = ()
    """The features of differing chats (`Chat.features`): chats with none of these sets are equal. Empty: all differ."""
    difference: Difference | None = None
    reason: str | None = None
    """Why a verdict is unknown."""
    remedy: str | None = None
    """The setting to change, unless all is equal."""
    renderer: str | None = None
    """The renderer whose tokens were compared."""
    rendered: Mapping[str, str] = msgspec.field(default_factory=dict)
    """A hash of the engine's tokens for each compared request, by the name of the request."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on all requests."""
        return Verdict.of_all((self.chats, self.texts))

    def of(self, *, chat: bool, features: frozenset[str] | None = None) -> Verdict:
        """The verdict on one kind of requests, or on chats with exactly these features."""
        if not chat:
            return self.texts
        if features is None or not self.confined or any(features >= some for some in self.confined):
            return self.chats
        return Verdict.EQUAL


UNASKED = Parity(reason="the engine has not been asked yet")


class Agreement(msgspec.Struct, frozen=True):
    """Whether tokens agree, for one model and one kind of requests, over all pods that serve the model."""

    verdict: Verdict
    """Whether our tokens equal theirs: one pod that differs decides."""
    engines: Verdict
    """Whether the pods render equally, so that one of them can be asked for all."""


def agreement(parities: Sequence[Parity], *, chat: bool, features: frozenset[str] | None = None) -> Agreement:
    """The agreement of pods, for chats with some features if they are given; `unknown` without pods."""
    verdicts = {parity.of(chat=chat, features=features) for parity in parities}
    verdict = Verdict.of_all(verdicts)
    if len(parities) == 1 or verdicts == {Verdict.EQUAL}:
        return Agreement(verdict, Verdict.EQUAL)
    return Agreement(verdict, render_equally(parities))


def render_equally(parities: Sequence[Parity]) -> Verdict:
    """Whether engines have equal tokens for the requests that they all rendered; `unknown` without such a request."""
    common = set.intersection(*(set(parity.rendered) for parity in parities)) if parities else set()
    if not common:
        return Verdict.UNKNOWN
    is_equal = all(len({parity.rendered[name] for parity in parities}) == 1 for name in common)
    return Verdict.EQUAL if is_equal else Verdict.DIFFERS
