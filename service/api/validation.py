"""Says in a user's words what a JSON decoder found wrong with a body."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from service.api.errors import Refusal

_KINDS: Final = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_AT: Final = re.compile(r" - at `(?P<path>[^`]*)`$")
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]+)`")


def refusal_of_body(error: Exception) -> Refusal:
    """What a client is told of a body that msgspec (0.22) could not decode; the field at fault is its `param`."""
    if isinstance(error, RecursionError):
        return Refusal(400, "the body is nested too deeply", code="invalid_json")
    if isinstance(error, UnicodeDecodeError):
        return Refusal(400, "the body is not valid UTF-8", code="invalid_json")
    if not isinstance(error, msgspec.ValidationError):
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        return Refusal(400, f"the body is not valid JSON: {reason}", code="invalid_json")
    text = str(error)
    at = _AT.search(text)
    return _refusal_of_field(text[: at.start()] if at else text, _param(at["path"]) if at else "")


def _refusal_of_field(complaint: str, param: str) -> Refusal:
    if missing := _MISSING.fullmatch(complaint):
        field = f"{param}.{missing['field']}" if param else missing["field"]
        return Refusal(400, f"`{field}` is missing", param=field, code="missing_field")
    subject = f"`{param}`" if param else "the body"
    return Refusal(400, f"{subject} {_demand(complaint)}", param=param or None)


def _demand(complaint: str) -> str:
    for pattern, demand in _DEMANDS:
        if found := pattern.fullmatch(complaint):
            return demand(found)
    return "holds a value that is not allowed"


def _other_kind(found: re.Match[str]) -> str:
    return f"must be {_kinds(found['expected'])}, not {_kinds(found['got'])}"


def _other_length(found: re.Match[str]) -> str:
    if found["bound"] == ">=" and found["limit"] == "1":
        return "must not be empty"
    unit = "characters" if found["expected"] == "str" else "elements"
    return f"must have {_BOUNDS[found['bound']]} {found['limit']} {unit}"


def _kinds(names: str) -> str:
    kinds = [_KINDS.get(name, name) for name in names.split(" | ")]
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else kinds[0]


def _param(path: str) -> str:
    """`$.messages[0].role` as a client would write it: `messages[0].role`."""
    return path.removeprefix("$").removeprefix(".").replace("[...]", "")


_DEMANDS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`"), _other_kind),
    (re.compile(r"Expected `(?P<expected>\w+)` of length (?P<bound>[<>]=) (?P<limit>\d+)"), _other_length),
    (
        re.compile(r"Expected `[^`]+` (?P<bound>[<>]=?) (?P<limit>\S+)"),
        lambda found: f"must be {_BOUNDS[found['bound']]} {found['limit']}",
    ),
    (
        re.compile(r"Invalid enum value (?P<value>.+)", re.DOTALL),
        lambda found: f"is {found['value'][:100]}, which is none of its values",
    ),
    (re.compile("Number out of range"), lambda _: "is a number out of range"),
)
"""What msgspec says of a value, and what is said of it here."""
