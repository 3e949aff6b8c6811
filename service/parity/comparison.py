"""Compares the tokens of the probe requests here with those of one engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from xxhash import xxh3_64_hexdigest

from service.fleet.parity import Difference, Parity, Verdict
from service.index.base import TokenIds
from service.parity.probes import CHATS, TEXTS
from service.prompts.chat import Chat
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError
from service.prompts.renderers.base import HARMONY
from service.prompts.renderers.engine_api import EngineApi, EngineLacks, EngineRefused, EngineSilent, EngineTokens

if TYPE_CHECKING:
    from service.prompts.models.model import Model

_SHOWN_TOKENS = 16
_SHOWN_CHARACTERS = 200

_Render: TypeAlias = Callable[[Any], Awaitable[TokenIds]]
_Ask: TypeAlias = Callable[[Any], Awaitable[EngineTokens]]


class _Kind(msgspec.Struct):
    """The comparison of one kind of requests."""

    compared: int = 0
    differing: list[str] = msgspec.field(default_factory=list)
    difference: Difference | None = None
    problem: str | None = None
    """Why the comparison ended early."""
    refusal: str | None = None
    """A message of the engine, if it refused requests."""
    theirs: dict[str, str] = msgspec.field(default_factory=dict)
    """Hashes of the engine's tokens by the names of requests."""

    @property
    def verdict(self) -> Verdict:
        if self.differing:
            return Verdict.DIFFERS
        return Verdict.UNKNOWN if self.problem or not self.compared else Verdict.EQUAL


class Comparison(msgspec.Struct):
    """Compares one model of one engine; `served` is the engine's name of the model."""

    api: EngineApi
    served: str
    model: Model
    chats: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=lambda: CHATS)
    texts: Mapping[str, str] = msgspec.field(default_factory=lambda: TEXTS)

    async def run(self) -> Parity:
        """The parity of all probe requests. One request at a time, so that the engine stays free for others."""
        chats = await self._compare(self.chats, self._chat_here, self._chat_there)
        texts = await self._compare(self.texts, self._text_here, lambda text: self.api.text(self.served, text))
        confined = _confined([self.chats[name] for name in chats.differing]) if chats.problem is None else ()
        reasons = dict.fromkeys(filter(None, (_reason(chats, "chats"), _reason(texts, "texts"))))
        return Parity(
            chats=chats.verdict,
            texts=texts.verdict,
            compared=chats.compared + texts.compared,
            differing=(*texts.differing, *chats.differing),
            confined=confined,
            difference=texts.difference or chats.difference,
            reason="; ".join(reasons) or None,
            remedy=_remedy(self.served, chats.verdict, texts.verdict, confined),
            renderer=self.model.renderer_name,
            rendered={**chats.theirs, **texts.theirs},
        )

    async def _chat_here(self, body: Mapping[str, Any]) -> TokenIds:
        return (await self.model.render(msgspec.convert(body, Chat))).tokens

    async def _chat_there(self, body: Mapping[str, Any]) -> EngineTokens:
        """/tokenize knows the template only, also where the engine renders with another renderer."""
        return await self.api.chat(self.served, body, may_tokenize=self.model.renderer_name != HARMONY)

    async def _text_here(self, text: str) -> TokenIds:
        return await self.model.tokenize(text)

    async def _compare(self, probes: Mapping[str, Any], render: _Render, ask: _Ask) -> _Kind:
        """Requests that the engine refuses do not count: it never computes them."""
        kind = _Kind()
        for name, probe in probes.items():
            try:
                theirs = (await ask(probe)).tokens
                difference = await self._difference(name, probe, render, theirs)
                if difference is not None:
                    # Once more: the date in a prompt may have changed in between.
                    theirs = (await ask(probe)).tokens
                    difference = await self._difference(name, probe, render, theirs)
            except (EngineRefused, EngineLacks) as error:
                kind.refusal = str(error)
                continue
            except EngineSilent as error:
                kind.problem = str(error)
                break
            except (ModelUnavailable, ModelNotFound) as error:
                kind.problem = str(error)
                break
            kind.theirs[name] = xxh3_64_hexdigest(theirs.tobytes())
            kind.compared += 1
            if difference is not None:
                kind.differing.append(name)
                kind.difference = kind.difference or difference
        return kind

    async def _difference(self, name: str, probe: Any, render: _Render, theirs: TokenIds) -> Difference | None:
        """Raises ModelUnavailable."""
        try:
            ours = await render(probe)
        except PromptError as error:
            return Difference(name, 0, f"refused: {error.message}"[:_SHOWN_CHARACTERS], await self._shown(theirs, 0))
        position = first_difference(ours, theirs)
        if position is None:
            return None
        here = await self._text(ours[position : position + _SHOWN_TOKENS])
        return Difference(name, position, here, await self._shown(theirs, position))

    async def _shown(self, tokens: TokenIds, position: int) -> str:
        """The engine's text at a position, by its own tokenizer if it has an endpoint for it."""
        wanted = tokens[position : position + _SHOWN_TOKENS]
        text = await self.api.text_of(self.served, wanted)
        return await self._text(wanted) if text is None else text[:_SHOWN_CHARACTERS]

    async def _text(self, tokens: TokenIds) -> str:
        try:
            return (await self.model.detokenize(tokens))[:_SHOWN_CHARACTERS]
        except PromptError:
            return str(list(tokens))[:_SHOWN_CHARACTERS]


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The position of the first differing token; None for equal tokens."""
    shorter = min(len(one), len(other))
    position = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    return None if position == len(one) == len(other) else position


def _reason(kind: _Kind, name: str) -> str | None:
    if kind.problem is not None:
        return kind.problem
    if not kind.compared and kind.refusal is not None:
        return f"the engine renders no {name} ({kind.refusal})" if kind.refusal else f"the engine renders no {name}"
    return None


def _confined(bodies: Sequence[Mapping[str, Any]]) -> tuple[frozenset[str], ...]:
    """The features of the chats, without those that include others; empty if some chat has none."""
    found = {msgspec.convert(body, Chat).features for body in bodies}
    least = [features for features in found if not any(other < features for other in found)]
    return tuple(sorted(least, key=sorted)) if all(least) else ()


def _remedy(served: str, chats: Verdict, texts: Verdict, confined: Sequence[frozenset[str]]) -> str | None:
    if texts is Verdict.DIFFERS:
        return f"Use the tokenizer that the engine loads: MODEL_ALIASES={served}=ORG/NAME; or RENDERERS={served}=engine"
    if confined:
        names = " or with ".join(" and ".join(sorted(features)) for features in confined)
        return f"Nothing: only chats with {names} differ, and the engine is asked for their tokens"
    if chats is Verdict.DIFFERS:
        return (
            "Give us the chat template and the other options that the engine was started with (docs/prompts.md#flags); "
            f"or RENDERERS={served}=engine"
        )
    return None
