"""Asks an engine, or a render server, for the tokens that it computes for a request.

Follows the render endpoints of vLLM 0.32 and 0.33, and /tokenize of older releases and of SGLang 0.5.23.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec

from service.index.base import TokenIds
from service.prompts.errors import PromptError
from service.prompts.truncation import Truncation, truncate

_CHAT, _TEXT, _TOKENIZE, _DETOKENIZE = (
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/tokenize",
    "/detokenize",
)
_NO_ENDPOINT = frozenset((404, 405, 501))
_FIELDS_OF_TOKENIZE = frozenset(
    (
        "model",
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
    )
)
"""vLLM ignores others in chats for /tokenize, and would answer with other tokens."""
_MAX_REASON_CHARACTERS = 300
_MAX_ANSWER_BYTES = 256 << 20
"""Answers about media contain the tensors of the media."""


class EngineRefused(Exception):
    """The engine refuses the request (400 or 422); the text is its message."""


class EngineSilent(Exception):
    """The engine cannot be asked; the text is the reason."""


class EngineLacks(EngineSilent):
    """The engine answers, but has no endpoint for this request."""


class EngineTokens(NamedTuple):
    """The tokens of a request, and vLLM's `features` (hashes and positions of media), if any."""

    tokens: TokenIds
    features: Mapping[str, Any] | None = None


class EngineApi:
    """A client for one engine. Methods raise EngineRefused and EngineSilent."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None = None) -> None:
        """`url` is without a trailing slash; `key` is the engine's API key. `session` has the timeout of a request."""
        self.url = url
        self._session = session
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def chat(self, model: str, body: Mapping[str, Any], *, may_tokenize: bool = True) -> EngineTokens:
        """The tokens of a chat request; its own `model` is replaced, its `cache_salt` left out.

        Without a render endpoint, /tokenize is asked if it `may_tokenize`: it knows templates, but neither Harmony nor
        the identifiers of media.
        """
        body = {name: value for name, value in body.items() if name != "cache_salt"}
        request = {**body, "model": model}
        status, answer = await self._post(_CHAT, request)
        if _is_missing(status, answer):
            if not may_tokenize:
                raise EngineLacks(f"the engine has no {_CHAT} (vLLM's option --enable-scale-out)")
            if unknown := [name for name in body if name not in _FIELDS_OF_TOKENIZE]:
                raise EngineLacks(f"the engine's /tokenize does not take {', '.join(unknown)}")
            status, answer = await self._post(_TOKENIZE, request)
            if status in {400, 422}:
                raise EngineLacks("the engine renders no chats")  # as SGLang, which takes only texts here
        return _tokens(self._checked(status, answer, _CHAT))

    async def text(
        self, model: str, text: str, *, add_special_tokens: bool = True, truncation: Truncation | None = None
    ) -> EngineTokens:
        """The tokens of a text, as of a text completion.

        /tokenize, which is asked without a render endpoint, does not truncate: what it leaves out can be done here only
        if the side is given, since the tokenizer's own truncation keeps its special tokens.
        """
        request = {"model": model, "prompt": text, "add_special_tokens": add_special_tokens}
        status, answer = await self._post(_TEXT, {**request, **_truncating(truncation)})
        if not _is_missing(status, answer):
            return _of_text(self._checked(status, answer, _TEXT))
        if truncation is not None and (truncation.side is None or truncation.needs_model):
            raise EngineLacks("the engine's /tokenize does not take truncate_prompt_tokens")
        status, answer = await self._post(_TOKENIZE, request)
        found = _of_text(self._checked(status, answer, _TEXT))
        return found if truncation is None else EngineTokens(truncate(found.tokens, truncation, None))

    async def text_of(self, model: str, tokens: TokenIds) -> str | None:
        """The text of tokens; None if the engine does not tell."""
        try:
            status, answer = await self._post(_DETOKENIZE, {"model": model, "tokens": tokens.tolist()})
        except EngineSilent:
            return None
        text = answer.get("prompt") if status == 200 and isinstance(answer, dict) else None
        return text if isinstance(text, str) else None

    def _checked(self, status: int, answer: Any, path: str) -> Any:
        if status == 200:
            return answer
        error = answer.get("error") if isinstance(answer, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        if message is None and isinstance(answer, dict):
            message = answer.get("message") or answer.get("detail")
        reason = str(message or "")[:_MAX_REASON_CHARACTERS]
        if status in {400, 422}:
            raise EngineRefused(reason)
        if status in _NO_ENDPOINT and "model" not in reason.lower():
            raise EngineSilent(f"the engine has neither {path} nor /tokenize")
        raise EngineSilent(f"the engine answers {status}: {reason}" if reason else f"the engine answers {status}")

    async def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        try:
            async with self._session.post(
                self.url + path,
                data=encoded(body),
                headers={"Content-Type": "application/json", **self._headers},
            ) as response:
                content = await _limited(response)
                try:
                    return response.status, msgspec.json.decode(content)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    return response.status, None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineSilent(f"the engine does not answer {path} ({str(error) or type(error).__name__})") from None


def _truncating(truncation: Truncation | None) -> dict[str, Any]:
    """The fields of a request that truncate its prompt."""
    if truncation is None:
        return {}
    side = {} if truncation.side is None else {"truncation_side": truncation.side}
    return {"truncate_prompt_tokens": truncation.keep, **side}


def encoded(value: Any) -> bytes:
    """A value as JSON, with whole numbers of any size. Raises PromptError if it is nested too deep."""
    try:
        try:
            return msgspec.json.encode(value)
        except OverflowError:
            return json.dumps(value).encode()
    except RecursionError:
        raise PromptError("the request is nested too deep") from None


def _is_missing(status: int, answer: Any) -> bool:
    """Whether an endpoint does not exist, or is disabled: vLLM 0.32 answers 403 without --enable-scale-out."""
    return status in _NO_ENDPOINT or (status == 403 and "scale-out" in str(answer).lower())


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    """The body; raises EngineSilent for one that is too large."""
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > _MAX_ANSWER_BYTES:
            raise EngineSilent(f"the engine's answer is larger than {_MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def _of_text(answer: Any) -> EngineTokens:
    """Render endpoints answer with a list, since a completion may have several prompts."""
    return _tokens(answer[0] if isinstance(answer, list) and len(answer) == 1 else answer)


def _tokens(answer: Any) -> EngineTokens:
    """Raises EngineSilent for an answer without tokens."""
    found = answer if isinstance(answer, dict) else {}
    ids: Any = found.get("token_ids", found.get("tokens"))
    try:
        tokens = array("I", ids)
    except (TypeError, OverflowError, ValueError):
        raise EngineSilent("the engine's answer holds no token ids") from None
    features = found.get("features")
    return EngineTokens(tokens, features if isinstance(features, dict) and features else None)
