"""Detects chats of nothing but text."""


def is_text_only(list messages not None, str billing_header not None):
    """Whether each message is exactly a role (user, assistant or system), then a text content.

    False if a system message starts with `billing_header`.
    """
    cdef dict message
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
        if <str> role == "user" or <str> role == "assistant":
            continue
        if <str> role != "system" or (<str> content).startswith(billing_header):
            return False
    return True
