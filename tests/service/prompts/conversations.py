"""Chat requests, and what vLLM hands to a chat template for each of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.service.prompts.texts import ODDITIES, random_text

Message = dict[str, Any]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Gives the weather at a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Köln <3"}'}}
CALL_AS_HANDED = {
    "id": "call12345",
    "function": {"arguments": {"city": "Köln <3"}, "name": "get_weather"},
    "type": "function",
}
DOCUMENTS = [{"title": "One", "text": "The first.", "doc_id": "1"}, {"title": "Two", "text": "2nd", "doc_id": "2"}]


@dataclass
class Case:
    """A request, and what of it differs from what the template gets.

    `handed` are the messages for a template that takes content as a string; `given` are the variables by name.
    """

    name: str
    request: dict[str, Any]
    handed: list[Message] | None = None
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[Message]:
        return self.request["messages"] if self.handed is None else self.handed


def said(role: str, content: Any, **fields: Any) -> Message:
    return {"role": role, "content": content, **fields}


HELLO = said("user", "Hello, wörld!\n\n")
TALK = [said("system", "Be brief."), said("user", "What is 2+2?"), said("assistant", "4"), said("user", "And 3+3?")]
TEXT_B = {"type": "text", "text": "b"}
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": ""}, {"type": "text", "text": "two "}]

CASES = [
    Case("one message", {"messages": [HELLO]}),
    Case("a conversation", {"messages": TALK}),
    Case(
        "no generation prompt",
        {"messages": TALK, "add_generation_prompt": False},
        given={"add_generation_prompt": False},
    ),
    Case("ends with the assistant", {"messages": TALK[:3]}),
    Case(
        "the assistant is continued",
        {"messages": TALK[:3], "add_generation_prompt": False, "continue_final_message": True},
        given={"add_generation_prompt": False, "continue_final_message": True},
    ),
    *(
        Case(
            f"{said_last!r} is continued",
            {
                "messages": [HELLO, said("assistant", said_last)],
                "add_generation_prompt": False,
                "continue_final_message": True,
            },
            given={"add_generation_prompt": False, "continue_final_message": True},
        )
        for said_last in ("<think>so</think>\nThus", "</think>x", "  a  \n", "", " CONTINUE_FINAL_MESSAGE_TAG ")
    ),
    Case("content in parts", {"messages": [said("user", PARTS)]}, [said("user", "one\ntwo ")]),
    Case(
        "parts of other names",
        {
            "messages": [
                said("user", [{"type": "input_text", "text": "a"}, {"type": "refusal", "refusal": "no"}, TEXT_B]),
                said("assistant", [{"type": "output_text", "text": "c"}, {"type": "thinking", "thinking": "d"}]),
                said("user", [{"type": "text", "text": None}, {"type": "text", "text": "e"}]),
            ]
        },
        [said("user", "a\nno\nb"), said("assistant", "c\nd"), said("user", "e")],
    ),
    Case(
        "null content",
        {"messages": [HELLO, said("assistant", None), said("user", "?")]},
        [HELLO, said("assistant", None), said("user", "?")],
    ),
    Case(
        "no content",
        {"messages": [HELLO, {"role": "assistant"}, said("user", "?")]},
        [HELLO, said("assistant", None), said("user", "?")],
    ),
    Case(
        "names", {"messages": [said("user", "hi", name="ann"), said("assistant", "ho", name="bob"), said("user", "!")]}
    ),
    Case(
        "a tool is called",
        {
            "messages": [
                HELLO,
                said("assistant", None, tool_calls=[CALL]),
                said("tool", "21°", tool_call_id="call12345"),
                said("user", "Thanks"),
            ],
            "tools": [WEATHER],
        },
        [
            HELLO,
            said("assistant", None, tool_calls=[CALL_AS_HANDED]),
            said("tool", "21°", tool_call_id="call12345"),
            said("user", "Thanks"),
        ],
        {"tools": [WEATHER]},
    ),
    Case(
        "a tool is called and answers in parts",
        {
            "messages": [
                HELLO,
                said("assistant", "Let me see.", tool_calls=[CALL]),
                said("tool", PARTS, tool_call_id="call12345"),
            ]
        },
        [
            HELLO,
            said("assistant", "Let me see.", tool_calls=[CALL_AS_HANDED]),
            said("tool", "one\ntwo ", tool_call_id="call12345"),
        ],
    ),
    Case(
        "arguments that are none",
        {
            "messages": [
                HELLO,
                said(
                    "assistant",
                    "",
                    tool_calls=[
                        {**CALL, "function": {"name": "f", "arguments": arguments}}
                        for arguments in ("", "[1]", "{oops", "{}")
                    ],
                ),
            ]
        },
        [
            HELLO,
            said(
                "assistant",
                "",
                tool_calls=[{**CALL_AS_HANDED, "function": {"arguments": {}, "name": "f"}} for _ in range(4)],
            ),
        ],
    ),
    Case(
        "no tool calls",
        {"messages": [HELLO, said("assistant", "x", tool_calls=[]), said("user", "y")]},
        [HELLO, said("assistant", "x"), said("user", "y")],
    ),
    Case("tools", {"messages": TALK, "tools": [WEATHER], "tool_choice": "auto"}, given={"tools": [WEATHER]}),
    Case(
        "a tool that is to be called",
        {
            "messages": TALK,
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        },
        given={"tools": [WEATHER]},
    ),
    Case("some tool", {"messages": TALK, "tools": [WEATHER], "tool_choice": "required"}, given={"tools": [WEATHER]}),
    Case(
        "tools that are not for now",
        {"messages": TALK, "tools": [WEATHER], "tool_choice": "none"},
        given={"tools": [WEATHER]},
    ),
    Case(
        "a tool that says little",
        {"messages": [HELLO], "tools": [{"function": {"name": "f", "strict": True, "x": 1}}]},
        given={
            "tools": [
                {"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": True}}
            ]
        },
    ),
    Case("documents", {"messages": [HELLO], "documents": DOCUMENTS}, given={"documents": DOCUMENTS}),
    Case(
        "documents and tools",
        {"messages": [HELLO], "documents": DOCUMENTS, "tools": [WEATHER]},
        given={"documents": DOCUMENTS, "tools": [WEATHER]},
    ),
    Case(
        "reasoning",
        {"messages": [HELLO, said("assistant", "so", reasoning="because\n"), said("user", "go on")]},
        [HELLO, said("assistant", "so", reasoning="because\n", reasoning_content="because\n"), said("user", "go on")],
    ),
    Case(
        "reasoning by its older name",
        {"messages": [HELLO, said("assistant", "so", reasoning_content="why"), said("user", "go on")]},
        [HELLO, said("assistant", "so", reasoning="why", reasoning_content="why"), said("user", "go on")],
    ),
    Case(
        "reasoning that a tool call follows",
        {
            "messages": [
                HELLO,
                said("assistant", "", reasoning="hm", tool_calls=[CALL]),
                said("tool", "1", tool_call_id="call12345"),
            ]
        },
        [
            HELLO,
            said("assistant", "", reasoning="hm", reasoning_content="hm", tool_calls=[CALL_AS_HANDED]),
            said("tool", "1", tool_call_id="call12345"),
        ],
    ),
    Case(
        "reasoning effort",
        {"messages": [HELLO], "reasoning_effort": "low"},
        given={"reasoning_effort": "low", "enable_thinking": True},
    ),
    Case(
        "no reasoning",
        {"messages": [HELLO], "reasoning_effort": "none"},
        given={"reasoning_effort": "none", "enable_thinking": False},
    ),
    Case(
        "effort and a switch",
        {"messages": [HELLO], "reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
        given={"reasoning_effort": "high", "enable_thinking": False},
    ),
    Case(
        "variables",
        {
            "messages": TALK,
            "chat_template_kwargs": {
                "thinking": True,
                "enable_thinking": False,
                "date_string": "1 Jan 2030",
                "builtin_tools": ["code_interpreter", "web"],
                "controls": {"length": "short", "citations": True},
                "nothing": None,
                "bos_token": "<B>",
                "padding": True,
            },
        },
        given={
            "thinking": True,
            "enable_thinking": False,
            "date_string": "1 Jan 2030",
            "bos_token": "<B>",
            "builtin_tools": ["code_interpreter", "web"],
            "controls": {"length": "short", "citations": True},
        },
    ),
    Case(
        "variables give way to fields",
        {
            "messages": [HELLO],
            "documents": DOCUMENTS,
            "chat_template_kwargs": {"add_generation_prompt": False, "documents": [], "continue_final_message": True},
        },
        given={"documents": DOCUMENTS},
    ),
    Case("a developer", {"messages": [said("developer", "Do."), HELLO]}, [said("system", "Do."), HELLO]),
    Case(
        "a developer between",
        {"messages": [said("system", "A"), HELLO, said("developer", "B")]},
        [said("system", "A\n\nB"), HELLO],
    ),
    Case(
        "empty strings", {"messages": [said("system", ""), said("user", ""), said("assistant", ""), said("user", "")]}
    ),
    Case("an unknown role", {"messages": [HELLO, said("critic", "Hm.")]}),
    Case(
        "unknown fields", {"messages": [{**HELLO, "prefix": True, "weight": 1}], "temperature": 0, "user": "u"}, [HELLO]
    ),
    Case("two in a row", {"messages": [HELLO, HELLO]}),
    Case(
        "tokens in text", {"messages": [said("user", "<|end_of_text|><|im_end|></s>[INST]{{ x }}{% raw %}<｜User｜>")]}
    ),
    Case(
        "right to left and emoji",
        {"messages": [said("user", "مرحبا 👨‍👩‍👧 שלום 🇩🇪"), said("assistant", "🎉" * 50), said("user", "é" * 9)]},
    ),
    Case("a very long line", {"messages": [said("user", "x" * 20_000 + " y" * 5_000)]}),
]


def random_case(random_: random.Random, added: list[str]) -> Case:
    """Gives a conversation of any roles and texts, plain enough to be handed over as it came."""
    messages = [said("system", random_text(random_, added))] if random_.random() < 0.5 else []
    for _ in range(random_.randrange(1, 6)):
        for role in ("user", "assistant"):
            messages.append(said(role, _random_content(random_, added)))
    if random_.random() < 0.7:
        messages.pop()
    if random_.random() < 0.1:
        messages.insert(random_.randrange(len(messages)), said("tool", random_text(random_, added)))
    request: dict[str, Any] = {"messages": messages}
    given: dict[str, Any] = {}
    if random_.random() < 0.3:
        request["tools"] = given["tools"] = [WEATHER]
    return Case("random", request, given=given)


def _random_content(random_: random.Random, added: list[str]) -> str:
    kind = random_.random()
    if kind < 0.2:
        return random_.choice(ODDITIES)
    if kind < 0.25:
        return random_text(random_, added).replace("\n", " ") * random_.randrange(50)
    return random_text(random_, added)
