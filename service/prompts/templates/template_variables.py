"""The variables of a chat template, and the continuation of a final message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.templates.conversation import Message, check_tool_choice, parse_messages, parse_tools
from service.prompts.templates.rendering import Template

_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
_REFUSED_VARIABLES = frozenset({"conversation", "self"})
_LISTS_OF_OBJECTS = ("tools", "documents")
_IGNORED_VARIABLES = frozenset(
    {
        "chat_template",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "sanitize_control_tokens",
        "tokenizer_kwargs",
        # vLLM passes on only the results of jinja2's `find_undeclared_variables`: none of its globals.
        "cycler",
        "dict",
        "joiner",
        "lipsum",
        "namespace",
        "range",
    }
)


def template_variables(
    chat: Chat, template: Template, special_tokens: Mapping[str, str], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the variables of a chat as in vLLM 0.33 and transformers 5.20; raises PromptError.

    `defaults` are those of the engine (`--default-chat-template-kwargs`).
    """
    if chat.continue_final_message and chat.add_generation_prompt:
        raise PromptError(
            "continue_final_message and add_generation_prompt (true by default) cannot both be true",
            "continue_final_message",
        )
    tools = parse_tools(chat.tools)
    check_tool_choice(chat.tool_choice, tools)
    messages = parse_messages(chat.messages, template.content_format)
    if (
        messages is not chat.messages  # text only, without the role developer
        and any(message["role"] == "developer" for message in messages)
        and not _knows_developers(template.source.text)
    ):
        messages = _as_system_messages(messages)
    if chat.continue_final_message:
        messages = [*messages[:-1], _tagged(messages[-1], template.source.text)]
    return {
        **special_tokens,
        "tools": tools,
        "documents": None,
        **{name: value for name, value in (defaults or {}).items() if name not in _IGNORED_VARIABLES},
        **_given_variables(chat, template.source.text),
        "add_generation_prompt": chat.add_generation_prompt,
        "messages": messages,
    }


def cut_for_continuation(text: str, chat: Chat, variables: Mapping[str, Any]) -> str:
    """If the final message is to be continued, cuts the text after it, as transformers 5.20 does.

    `variables` are those of the rendering; raises PromptError.
    """
    if not chat.continue_final_message:
        return text
    at = text.rfind(_CONTINUE_TAG.strip())
    final = _final_text(variables["messages"][-1]["content"]).removesuffix(_CONTINUE_TAG)
    if at < 0 or final.strip() not in text:
        message = "the chat template does not show all of the final message, so it cannot be continued"
        raise PromptError(message, "messages")
    return text[:at] if text.startswith(_CONTINUE_TAG, at) else text[:at].rstrip()


def _given_variables(chat: Chat, source: str) -> dict[str, Any]:
    """The request's own variables, in the precedence of vLLM's `build_chat_params` and `with_defaults`."""
    given = dict(chat.chat_template_kwargs or {})
    if chat.reasoning_effort is not None:
        given = {"enable_thinking": chat.reasoning_effort != "none", **given, "reasoning_effort": chat.reasoning_effort}
    if chat.documents is not None:
        given["documents"] = chat.documents
    said = {
        name: value
        for name, value in given.items()
        if value is not None and value != "auto" and name not in _IGNORED_VARIABLES
    }
    refused = _REFUSED_VARIABLES | {"messages"} if "messages" in source else _REFUSED_VARIABLES
    if names := refused & said.keys():
        raise PromptError(f"chat_template_kwargs may not give {', '.join(sorted(names))}", "chat_template_kwargs")
    for name in _LISTS_OF_OBJECTS:
        value = said.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise PromptError(f"{name} in chat_template_kwargs must be a list of objects", "chat_template_kwargs")
    return said


def _knows_developers(source: str) -> bool:
    return '"developer"' in source or "'developer'" in source


def _as_system_messages(messages: list[Message]) -> list[Message]:
    """Turns developer messages into system messages, and all system messages into one at the start."""
    turned = [
        {field: value for field, value in message.items() if field != "tools"} | {"role": "system"}
        if message["role"] == "developer"
        else message
        for message in messages
    ]
    if all(message["role"] != "system" for message in turned[1:]):
        return turned
    texts = [_joined(message["content"]) for message in turned if message["role"] == "system"]
    system = {"role": "system", "content": "\n\n".join(filter(None, texts))}
    return [system, *(message for message in turned if message["role"] != "system")]


def _joined(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)


def _tagged(message: Message, source: str) -> Message:
    """Marks the end of the final message for `cut_for_continuation`."""
    if "content" not in source:
        raise PromptError("the chat template does not read the content of messages", "continue_final_message")
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _CONTINUE_TAG}
    if (part := _final_part(content)) is None:
        raise PromptError("the final message has no text to continue", "messages")
    part["text"] += _CONTINUE_TAG
    return message


def _final_text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    part = _final_part(content)
    return part["text"] if part is not None else ""


def _final_part(content: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((part for part in reversed(content) if "text" in part), None)
