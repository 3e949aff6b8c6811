"""Bodies of a simulated engine's answers, in the shapes of vLLM 0.33's OpenAI server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
CORE_DIED = "EngineCore encountered an issue. See stack trace."
Json = dict[str, Any]


def error(status: int, message: str, kind: str, param: str | None = None) -> bytes:
    """The body of an error; its `code` is the status, as a number."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def event(data: Json) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(data)


@dataclass(frozen=True, slots=True)
class Answer:
    """The fields common to all parts of an answer, of a chat or of a text completion.

    With `tool`, the answer calls this function and its text is the arguments.
    """

    identity: str
    model: str
    chat: bool
    prompt_tokens: int
    cached_tokens: int
    tool: str | None = None
    tells_reuse: bool = True
    """Whether the usage has `cached_tokens`, as with vLLM's --enable-prompt-tokens-details."""

    def whole(self, text: str, tokens: Sequence[int], finish_reason: str) -> bytes:
        """The body of an unstreamed answer."""
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
        message: Json = {"role": "assistant", "content": text, "tool_calls": []}
        if self.tool is not None:
            message |= {"content": None, "tool_calls": [self._call(text)]}
        choice |= {"message": message} if self.chat else {"text": text}
        head = self._head("chat.completion" if self.chat else "text_completion")
        return msgspec.json.encode({**head, "choices": [choice], "usage": self._usage(len(tokens))})

    def created(self) -> bytes:
        """The events that come before the prompt is computed."""
        return b""

    def first(self) -> bytes:
        """The event of a chat's role, sent with the first token; nothing for a text completion."""
        if not self.chat:
            return b""
        calls = {} if self.tool is None else {"tool_calls": [{"index": 0, **self._call("")}]}
        return self._chunk({"role": "assistant", "content": "", **calls}, None)

    def part(self, text: str, finish_reason: str | None, usage_tokens: int | None = None) -> bytes:
        """The event of one token; with `usage_tokens`, its usage so far (`continuous_usage_stats`)."""
        usage = {} if usage_tokens is None else {"usage": self._usage(usage_tokens)}
        if self.tool is not None:
            return self._chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}, finish_reason, usage)
        return self._chunk({"content": text}, finish_reason, usage)

    def end(self, text: str, generated: int, finish_reason: str, *, include_usage: bool) -> bytes:
        """The events after the last token of `text`: of usage if asked for, and the end."""
        if not include_usage:
            return DONE
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        return event({**head, "choices": [], "usage": self._usage(generated)}) + DONE

    def aborted(self) -> bytes:
        """The events that end a stream on SIGTERM."""
        return self.part("", "abort") + DONE

    def failed(self) -> bytes:
        """The events that end a stream after the death of the engine's core."""
        return b"data: %s\n\n" % error(500, CORE_DIED, "InternalServerError") + DONE

    def _call(self, arguments: str) -> Json:
        function = {"name": self.tool, "arguments": arguments}
        return {"id": f"call_{self.identity}", "type": "function", "function": function}

    def _chunk(self, delta: Json, finish_reason: str | None, extra: Mapping[str, Any] | None = None) -> bytes:
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        choice |= {"delta": delta} if self.chat else {"text": delta["content"]}
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        return event({**head, "choices": [choice], **(extra or {})})

    def _head(self, kind: str) -> Json:
        return {"id": self.identity, "object": kind, "created": int(time.time()), "model": self.model}

    def _usage(self, generated: int) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens} if self.tells_reuse else None,
        }


def pieces(text: str, count: int) -> Iterator[str]:
    """Cuts a text into `count` pieces of about equal length; joined, they are the text."""
    for number in range(count):
        yield text[len(text) * number // count : len(text) * (number + 1) // count]


def models(served: Sequence[str], root: str, max_model_len: int) -> bytes:
    """The body of GET /v1/models."""
    card = {"object": "model", "owned_by": "vllm", "root": root, "parent": None, "max_model_len": max_model_len}
    return msgspec.json.encode({"object": "list", "data": [{"id": name, **card} for name in served]})
