"""Detects chats of nothing but text, compiled by mypyc."""

from __future__ import annotations


def is_text_only(messages: list[dict[str, object]], billing_header: str) -> bool:
    """Whether each message is exactly a role (user, assistant or system), then a text content.

    False if a system message starts with `billing_header`.
    """
    for message in messages:
        if len(message) != 2:
            return False
        for field in message:
            if field != "role":
                return False
            break
        role = message["role"]
        content = message.get("content")
        if not isinstance(content, str) or not isinstance(role, str):
            return False
        if role == "user" or role == "assistant":
            continue
        if role != "system" or content.startswith(billing_header):
            return False
    return True
