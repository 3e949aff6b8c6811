"""Chats as most are, told from others in the Python that mypyc makes fast C of."""

from __future__ import annotations


def is_text_only(messages: list[dict[str, object]], billing_header: str) -> bool:
    """Whether each message is a role and then a text, and the role is one that can say nothing else.

    A system message that starts with `billing_header` is not plain.
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
