"""Answers of a simulated engine to /v1/responses (OpenAI), /v1/messages (Anthropic) and /v1/embeddings."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import xxhash

from service.simulation.answers import CORE_DIED, Answer, Json

_DIMENSIONS = 16


def _named_event(data: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (data["type"].encode(), msgspec.json.encode(data))


@dataclass(frozen=True, slots=True)
class ResponseAnswer(Answer):
    """The answer to a body of /v1/responses: one output item."""

    def whole(self, text: str, tokens: Sequence[int], finish_reason: str) -> bytes:
        return msgspec.json.encode(self._response("completed", [self._item(text, "completed")], len(tokens)))

    def created(self) -> bytes:
        response = self._response("in_progress", [], 0)
        kinds = ("response.created", "response.in_progress")
        return b"".join(_named_event({"type": kind, "response": response, "sequence_number": 0}) for kind in kinds)

    def first(self) -> bytes:
        events: list[Json] = [
            {"type": "response.output_item.added", "output_index": 0, "item": self._item("", "in_progress")},
        ]
        if self.tool is None:
            events.append({"type": "response.content_part.added", **self._place, "part": self._part("")})
        return b"".join(map(_named_event, events))

    def part(self, text: str, finish_reason: str | None, usage_tokens: int | None = None) -> bytes:
        return _named_event({"type": f"response.{self._kind}.delta", **self._place, "delta": text, "logprobs": []})

    def end(self, text: str, generated: int, finish_reason: str, *, include_usage: bool) -> bytes:
        item = self._item(text, "completed")
        field = "text" if self.tool is None else "arguments"
        events: list[Json] = [
            {"type": f"response.{self._kind}.done", **self._place, field: text, "logprobs": []},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": self._response("completed", [item], generated)},
        ]
        if self.tool is None:
            events.insert(1, {"type": "response.content_part.done", **self._place, "part": self._part(text)})
        return b"".join(map(_named_event, events))

    @property
    def _kind(self) -> str:
        return "output_text" if self.tool is None else "function_call_arguments"

    @property
    def _place(self) -> Json:
        place: Json = {"item_id": f"msg_{self.identity}", "output_index": 0, "sequence_number": 0}
        return place if self.tool else {**place, "content_index": 0}

    def _part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}

    def _item(self, text: str, status: str) -> Json:
        item: Json = {"id": f"msg_{self.identity}", "status": status}
        if self.tool is not None:
            call = {"type": "function_call", "call_id": f"call_{self.identity}", "name": self.tool}
            return {**item, **call, "arguments": text}
        return {**item, "type": "message", "role": "assistant", "content": [self._part(text)] if text else []}

    def _response(self, status: str, output: list[Json], generated: int) -> Json:
        usage = {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + generated,
        }
        fixed = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "temperature": 1.0, "top_p": 1.0}
        head = {"id": self.identity, "object": "response", "created_at": int(time.time()), "model": self.model}
        return {**head, **fixed, "status": status, "output": output, "usage": usage if status == "completed" else None}


@dataclass(frozen=True, slots=True)
class MessageAnswer(Answer):
    """The answer to a body of /v1/messages: one block of content."""

    def whole(self, text: str, tokens: Sequence[int], finish_reason: str) -> bytes:
        block = self._block(msgspec.json.decode(text)) if self.tool else {"type": "text", "text": text}
        message = {**self._message([block], len(tokens)), "stop_reason": self._stop(finish_reason)}
        return msgspec.json.encode({name: value for name, value in message.items() if value is not None})

    def first(self) -> bytes:
        block = self._block({}) if self.tool else {"type": "text", "text": ""}
        return b"".join(
            (
                _named_event({"type": "message_start", "message": self._message([], 0)}),
                _named_event({"type": "content_block_start", "index": 0, "content_block": block}),
            )
        )

    def part(self, text: str, finish_reason: str | None, usage_tokens: int | None = None) -> bytes:
        delta = {"type": "text_delta", "text": text}
        if self.tool:
            delta = {"type": "input_json_delta", "partial_json": text}
        return _named_event({"type": "content_block_delta", "index": 0, "delta": delta})

    def end(self, text: str, generated: int, finish_reason: str, *, include_usage: bool) -> bytes:
        delta = {"stop_reason": self._stop(finish_reason), "stop_sequence": None}
        return b"".join(
            (
                _named_event({"type": "content_block_stop", "index": 0}),
                _named_event({"type": "message_delta", "delta": delta, "usage": self._counted(generated)}),
                _named_event({"type": "message_stop"}),
            )
        )

    def aborted(self) -> bytes:
        delta = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": self._counted(0)}
        return _named_event(delta) + _named_event({"type": "message_stop"})

    def failed(self) -> bytes:
        return _named_event({"type": "error", "error": {"type": "internal_error", "message": CORE_DIED}})

    def _block(self, arguments: Any) -> Json:
        return {"type": "tool_use", "id": f"toolu_{self.identity}", "name": self.tool, "input": arguments}

    def _stop(self, finish_reason: str) -> str | None:
        if finish_reason == "abort":
            return None
        return "tool_use" if self.tool else {"length": "max_tokens"}.get(finish_reason, "end_turn")

    def _message(self, content: list[Json], generated: int) -> Json:
        head = {"id": self.identity, "type": "message", "role": "assistant", "model": self.model}
        return {**head, "content": content, "stop_reason": None, "stop_sequence": None} | {
            "usage": self._counted(generated)
        }

    def _counted(self, generated: int) -> Json:
        if not self.tells_reuse:
            return {"input_tokens": self.prompt_tokens, "output_tokens": generated}
        uncached = self.prompt_tokens - self.cached_tokens
        return {
            "input_tokens": uncached,
            "cache_read_input_tokens": self.cached_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": generated,
        }


def embeddings(model: str, prompts: Sequence[Sequence[int]], *, as_base64: bool) -> bytes:
    """The body of /v1/embeddings: a vector for each prompt that depends on its tokens only."""
    data = []
    for number, tokens in enumerate(prompts):
        random = Random(xxhash.xxh3_64_intdigest(struct.pack(f"<{len(tokens)}I", *tokens)))  # noqa: S311
        vector = struct.pack(f"<{_DIMENSIONS}f", *(random.uniform(-1, 1) for _ in range(_DIMENSIONS)))
        shown = base64.b64encode(vector).decode() if as_base64 else struct.unpack(f"<{_DIMENSIONS}f", vector)
        data.append({"object": "embedding", "index": number, "embedding": shown})
    total = sum(map(len, prompts))
    usage = {"prompt_tokens": total, "total_tokens": total}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})
