"""Prompts and replies of a simulated engine, computed from request bodies."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from service.prompts.chat import Chat
from service.prompts.models.model import Model
from service.prompts.truncation import Truncation
from service.simulation.phrases import ANSWERS, PERSONAS

_MAX_REPLY_SENTENCES = 4


class BadRequest(Exception):
    """A request body that vLLM refuses with 400; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Work:
    """A request as tokens: its prompt and the reply to generate."""

    prompt: Sequence[int]
    output: Sequence[int]
    text: str
    finish_reason: str
    tool: str | None = None
    """The function that the reply calls; the text is its arguments then."""


async def read_chat(body: dict[str, Any], model: Model) -> Work:
    """The work of a chat request. Raises BadRequest, and PromptError of the model."""
    prompt = await chat_tokens(body, model)
    if (function := _called(body)) is not None:
        text = _arguments(function, body)
        output = await model.tokenize(text, add_special_tokens=False)
        return Work(prompt, output, text, "tool_calls", function["name"])
    text = _reply(body)
    messages = [*body["messages"], {"role": "assistant", "content": text}]
    chat = _decode({**body, "messages": messages, "add_generation_prompt": False, "continue_final_message": False})
    whole = (await model.render(chat)).tokens
    if whole[: len(prompt)] == prompt:
        output = whole[len(prompt) : -1]  # the template ends it with a line break that the model does not generate
    else:
        output = await model.tokenize(text, add_special_tokens=False)
    return _cut(prompt, output, text, body)


async def read_completion(body: dict[str, Any], model: Model) -> Work:
    """The work of a text completion. Raises BadRequest, and PromptError of the model."""
    prompt = await completion_tokens(body, model)
    text = _reply(body)
    return _cut(prompt, await model.tokenize(text, add_special_tokens=False), text, body)


async def chat_tokens(body: dict[str, Any], model: Model) -> Sequence[int]:
    return (await model.render(_decode(body))).tokens


async def completion_tokens(body: dict[str, Any], model: Model) -> Sequence[int]:
    """The prompt tokens of a text completion, given as a text or as token ids."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        keep = body.get("truncate_prompt_tokens")
        return await model.tokenize(
            prompt,
            add_special_tokens=body.get("add_special_tokens", True),
            truncation=None if keep is None else Truncation(keep, body.get("truncation_side")),
        )
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) and token >= 0 for token in prompt):
        return prompt
    raise BadRequest("prompt must be a string or a list of token ids", "prompt")


async def embedded_tokens(body: dict[str, Any], model: Model) -> list[Sequence[int]]:
    """The tokens of each input of an embeddings request: texts, or token ids. Raises BadRequest."""
    given = body.get("input")
    if not given or not isinstance(given, str | list):
        raise BadRequest("input must be a string, a list of strings, or token ids", "input")
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    return [await completion_tokens({"prompt": one}, model) for one in inputs]


def _called(body: dict[str, Any]) -> dict[str, Any] | None:
    """The function that a reply has to call: the one that `tool_choice` names, or the first if one is required."""
    functions: list[dict[str, Any]] = [tool["function"] for tool in body.get("tools") or ()]
    choice = body.get("tool_choice")
    if choice == "required":
        return functions[0] if functions else None
    if not isinstance(choice, dict):
        return None
    name = choice.get("function", {}).get("name")
    found = next((function for function in functions if function.get("name") == name), None)
    if found is None:
        raise BadRequest(f"tool_choice names {name!r}, which is not among the tools", "tool_choice")
    return found


def _arguments(function: dict[str, Any], body: dict[str, Any]) -> str:
    """Arguments for the required parameters: a text for strings, 0 for all else."""
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    values = {
        name: _reply(body) if properties.get(name, {}).get("type") == "string" else 0
        for name in schema.get("required") or ()
    }
    return msgspec.json.encode(values).decode()


def _decode(body: dict[str, Any]) -> Chat:
    try:
        return msgspec.convert(body, Chat)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error), "messages" if "messages" not in body else None) from None


def _reply(body: dict[str, Any]) -> str:
    """A reply that depends only on the prompt."""
    random = Random(zlib.crc32(msgspec.json.encode(body.get("messages") or body.get("prompt"))))  # noqa: S311
    persona = random.choice(PERSONAS)
    return " ".join(
        phrase.format(
            item=random.choice(persona.items),
            place=random.choice(persona.places),
            event=random.choice(persona.events),
            number=random.randint(100, 999),
            day=random.randint(1, 30),
            hour=random.randint(7, 21),
        )
        for phrase in random.sample(ANSWERS, random.randint(1, _MAX_REPLY_SENTENCES))
    )


def _cut(prompt: Sequence[int], output: Sequence[int], text: str, body: dict[str, Any]) -> Work:
    """Applies `max_tokens`; with vLLM's `ignore_eos`, the reply is repeated up to it."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if not isinstance(limit, int) or limit < 1:
        return Work(prompt, output, text, "stop")
    if body.get("ignore_eos") and output:
        times = -(-limit // len(output))
        output, text = list(output) * times, " ".join([text] * times)
    elif limit >= len(output):
        return Work(prompt, output, text, "stop")
    return Work(prompt, output[:limit], text[: len(text) * limit // len(output)], "length")
