"""Renders prompts by asking an engine, or a render server without a GPU: exact for every model, flag and medium."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from xxhash import xxh3_128_digest

from service.byte_lru import ByteLru
from service.index.base import Medium, TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.renderers.engine_api import EngineApi, EngineRefused, EngineSilent, EngineTokens, encoded
from service.prompts.truncation import Truncation

_TTL_SECONDS = 60.0
"""Maximum age of a remembered answer: prompts may contain the date."""
_ENTRY_BYTES = 400
_TOKEN_BYTES = 4

_Ask: TypeAlias = Callable[[EngineApi], Awaitable[EngineTokens]]
_WHOLE = frozenset(("messages", "add_generation_prompt"))
"""Fields that are always sent."""
_DEFAULTS: Final = {field.name: None if field.required else field.default for field in msgspec.structs.fields(Chat)}


class EngineRendered(NamedTuple):
    """A prompt as an engine computes it."""

    tokens: TokenIds
    media: Sequence[Medium] = ()


class _Remembered(NamedTuple):
    rendered: EngineRendered
    at: float


class EngineRenderer:
    """Asks engines in the given order, within one time limit, and never for more than a few prompts at once.

    Equal requests within a minute are asked once. A prefix of the messages is not enough to know any tokens: only the
    engine knows the template.
    """

    def __init__(
        self,
        timeout: float = 1.0,
        concurrency: int = 4,
        cache_bytes: int = 4 << 20,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`timeout` is in seconds, and includes the wait for other prompts."""
        self._timeout = timeout
        self._turns = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._known: ByteLru[bytes, _Remembered] = ByteLru(
            cache_bytes, lambda _, known: _ENTRY_BYTES + _TOKEN_BYTES * len(known.rendered.tokens)
        )

    async def chat(
        self, engines: Iterable[EngineApi], model: str, chat: Chat, *, may_tokenize: bool = True
    ) -> EngineRendered:
        """The tokens of a chat; raises PromptError if the engine refuses it, and ModelUnavailable.

        `may_tokenize` allows an engine's /tokenize, which is exact for text and the model's template only.
        """
        body = chat_body(chat)
        return await self._remembered(
            engines, model, body, lambda api: api.chat(model, body, may_tokenize=may_tokenize)
        )

    async def text(
        self,
        engines: Iterable[EngineApi],
        model: str,
        text: str,
        *,
        add_special_tokens: bool = True,
        truncation: Truncation | None = None,
    ) -> EngineRendered:
        """The tokens of a text; raises PromptError if the engine refuses it, and ModelUnavailable."""
        body = {"prompt": text, "add_special_tokens": add_special_tokens, "truncation": truncation}
        return await self._remembered(
            engines,
            model,
            body,
            lambda api: api.text(model, text, add_special_tokens=add_special_tokens, truncation=truncation),
        )

    def forget(self) -> None:
        """Forgets all answers, because an engine has restarted."""
        self._known.clear()

    async def _remembered(
        self, engines: Iterable[EngineApi], model: str, body: Mapping[str, Any], ask: _Ask
    ) -> EngineRendered:
        key = xxh3_128_digest(encoded((model, body)))
        known = self._known.get(key)
        if known is not None and self._clock() - known.at < _TTL_SECONDS:
            return known.rendered
        rendered = await self._asked(engines, model, ask)
        self._known.put(key, _Remembered(rendered, self._clock()))
        return rendered

    async def _asked(self, engines: Iterable[EngineApi], model: str, ask: _Ask) -> EngineRendered:
        reason = "no engine can be asked"
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                for api in engines:
                    try:
                        found = await ask(api)
                        return EngineRendered(found.tokens, media_of(found.features))
                    except EngineSilent as error:
                        reason = str(error)
        except EngineRefused as error:
            raise PromptError(f"the engine refuses the prompt: {error}") from None
        except TimeoutError:
            reason = f"the engine did not render the prompt within {self._timeout:g} s (RENDER_URL_TIMEOUT)"
        raise ModelUnavailable(model, reason, "Try again")


def chat_body(chat: Chat) -> dict[str, Any]:
    """The fields of a chat that its prompt depends on, as a request body."""
    return {
        name: value
        for name, default in _DEFAULTS.items()
        if (value := getattr(chat, name)) != default or name in _WHOLE
    }


def media_of(features: Mapping[str, Any] | None) -> tuple[Medium, ...]:
    """The media of vLLM's `features`, in the order of the prompt. Raises PromptError for a malformed object."""
    if not features:
        return ()
    try:
        media = [
            Medium(str(identifier), int(place["offset"]), int(place["length"]))
            for kind, identifiers in (features.get("mm_hashes") or {}).items()
            for identifier, place in zip(identifiers, features["mm_placeholders"][kind], strict=True)
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PromptError("features must have `mm_hashes` and `mm_placeholders` of equal shape", "features") from None
    media.sort(key=lambda medium: medium.offset)
    if any(medium.offset < 0 or medium.length < 1 for medium in media):
        raise PromptError("features: a placeholder's offset must be 0 or more, its length 1 or more", "features")
    if any(one.offset + one.length > other.offset for one, other in pairwise(media)):
        raise PromptError("features: placeholders must not overlap", "features")
    return tuple(media)
