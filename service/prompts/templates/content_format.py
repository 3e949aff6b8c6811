"""Detects whether a chat template reads a message's content as one string or loops over its parts.

Follows `_detect_content_format` (`renderers/hf.py`, vLLM 0.33) exactly, since another answer changes the
prompt: a loop over the content of a message means parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jinja2 import nodes

from service.prompts.templates.conversation import ContentFormat


def content_format(tree: nodes.Template) -> ContentFormat:
    """Returns "openai" for a template that loops over a message's content, else "string"."""
    try:
        return "openai" if any(_walks_content(tree)) else "string"
    except AssertionError:
        # For a loop with several targets, vLLM fails to read the template and falls back to "string".
        return "string"


def _walks_content(tree: nodes.Template) -> Iterator[bool]:
    messages = _message_names(tree)
    macro_loops = {id(loop) for macro in tree.find_all(nodes.Macro) for loop in macro.find_all(nodes.For)}
    given = _content_parameters(tree, messages)
    for loop in tree.find_all(nodes.For):
        name = loop.iter.name if isinstance(loop.iter, nodes.Name) else None
        if (
            any(_reads(loop.iter, message, "content") for message in messages)
            or name in given.get(id(loop), ())
            or (name == "content" and id(loop) not in macro_loops)
        ):
            assert isinstance(loop.target, nodes.Name)  # noqa: S101 - as in vLLM; content_format handles it
            yield True


def _message_names(tree: nodes.Template) -> list[str]:
    """The loop variables for one message, in loops over `messages` or over an alias of it."""
    lists = list(_aliases(tree, "messages"))
    names = []
    for loop in tree.find_all(nodes.For):
        if any(_reads(loop.iter, name) for name in lists):
            assert isinstance(loop.target, nodes.Name)  # noqa: S101
            names.append(loop.target.name)
    return names


def _content_parameters(tree: nodes.Template, messages: list[str]) -> dict[int, set[str]]:
    """The parameters of macros that receive a message's content, once for each loop inside the macro."""
    by_loop: dict[int, set[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        names = [argument.name for argument in macro.args]
        given: set[str] = set()
        for call in tree.find_all(nodes.Call):
            if not (isinstance(call.node, nodes.Name) and call.node.name == macro.name):
                continue
            positional = zip(names, call.args, strict=False)
            by_keyword = ((keyword.key, keyword.value) for keyword in call.kwargs if keyword.key in names)
            given.update(
                name
                for pairs in (positional, by_keyword)
                for name, value in pairs
                if any(_reads(value, message, "content") for message in messages)
            )
        if given:
            by_loop.update((id(loop), given) for loop in macro.find_all(nodes.For))
    return by_loop


def _aliases(tree: nodes.Template, name: str) -> Iterator[str]:
    """Yields the name, and every name or namespace attribute that is directly or indirectly assigned from it."""
    seen, queue = {name}, deque([name])
    while queue:
        known = queue.popleft()
        yield known
        for assignment in tree.find_all(nodes.Assign):
            for alias in _assigned(assignment, known):
                if alias not in seen:
                    seen.add(alias)
                    queue.append(alias)


def _assigned(assignment: nodes.Assign, name: str) -> list[str]:
    target, value = assignment.target, assignment.node
    aliases = []
    if isinstance(target, nodes.Name) and _reads(value, name):
        aliases.append(target.name)
    if (
        isinstance(target, nodes.Name)
        and isinstance(value, nodes.Call)
        and isinstance(value.node, nodes.Name)
        and value.node.name == "namespace"
    ):
        aliases += [f"{target.name}.{keyword.key}" for keyword in value.kwargs if _reads(keyword.value, name)]
    elif isinstance(target, (nodes.Getattr, nodes.NSRef)) and _reads(value, name):
        dotted = _dotted(target)
        aliases += [dotted] if dotted is not None else []
    return aliases


def _reads(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether an expression is the variable or its item `key`, possibly sliced, filtered or tested."""
    while True:
        if isinstance(node, (nodes.Filter, nodes.Test)) or (
            isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        ):
            node = node.node
        elif key is None:
            return _is_variable(node, name)
        elif isinstance(node, nodes.Getitem):
            return _is_variable(node.node, name) and isinstance(node.arg, nodes.Const) and node.arg.value == key
        else:
            return isinstance(node, nodes.Getattr) and node.attr == key and _is_variable(node.node, name)


def _is_variable(node: nodes.Node | None, name: str) -> bool:
    if isinstance(node, nodes.Name):
        return node.ctx == "load" and node.name == name
    base, dot, attribute = name.rpartition(".")
    return bool(dot) and isinstance(node, nodes.Getattr) and node.attr == attribute and _is_variable(node.node, base)


def _dotted(node: nodes.Node) -> str | None:
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    parts: list[str] = []
    while isinstance(node, nodes.Getattr):
        parts.append(node.attr)
        node = node.node
    return ".".join((node.name, *reversed(parts))) if isinstance(node, nodes.Name) else None
