"""Converts errors of the JSON decoder to messages about the fields of a body."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from service.api.errors import ApiError

_TYPES: Final = {
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
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`", re.DOTALL)


def body_error(error: Exception) -> ApiError:
    """The response to a body that msgspec (0.22) cannot decode; `param` is the field at fault."""
    if isinstance(error, RecursionError):
        return ApiError(400, "the body is nested too deeply", code="invalid_json")
    if isinstance(error, UnicodeDecodeError):
        return ApiError(400, "the body is not valid UTF-8", code="invalid_json")
    if not isinstance(error, msgspec.ValidationError):
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        return ApiError(400, f"the body is not valid JSON: {reason}", code="invalid_json")
    text = str(error)
    at = _AT.search(text)
    return _field_error(text[: at.start()] if at else text, _param(at["path"]) if at else "")


def an_object(value: Any, where: str) -> dict[str, Any]:
    """The value of the field `where`, which must be an object. Raises ApiError 400."""
    if not isinstance(value, dict):
        raise ApiError(400, f"`{where}` must be an object", param=where)
    return value


def an_array(value: Any, where: str) -> list[Any]:
    """The value of the field `where`, which must be an array. Raises ApiError 400."""
    if not isinstance(value, list):
        raise ApiError(400, f"`{where}` must be an array", param=where)
    return value


def _field_error(problem: str, param: str) -> ApiError:
    if missing := _MISSING.fullmatch(problem):
        field = f"{param}.{missing['field']}" if param else missing["field"]
        return ApiError(400, f"`{field}` is missing", param=field, code="missing_field")
    if unknown := _UNKNOWN.fullmatch(problem):
        name = unknown["field"][:100]
        field = f"{param}.{name}" if param else name
        return ApiError(400, f"`{field}` is not a field of this body", param=field, code="unknown_field")
    subject = f"`{param}`" if param else "the body"
    return ApiError(400, f"{subject} {_requirement(problem)}", param=param or None)


def _requirement(problem: str) -> str:
    for pattern, requirement in _REQUIREMENTS:
        if found := pattern.fullmatch(problem):
            return requirement(found)
    return "holds a value that is not allowed"


def _wrong_type(found: re.Match[str]) -> str:
    return f"must be {_type_names(found['expected'])}, not {_type_names(found['got'])}"


def _wrong_length(found: re.Match[str]) -> str:
    if found["bound"] == ">=" and found["limit"] == "1":
        return "must not be empty"
    unit = "characters" if found["expected"] == "str" else "elements"
    return f"must have {_BOUNDS[found['bound']]} {found['limit']} {unit}"


def _type_names(names: str) -> str:
    kinds = [_TYPES.get(name, name) for name in names.split(" | ")]
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else kinds[0]


def _param(path: str) -> str:
    """Writes `$.messages[0].role` as a client would: `messages[0].role`."""
    return path.removeprefix("$").removeprefix(".").replace("[...]", "")


_REQUIREMENTS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`"), _wrong_type),
    (re.compile(r"Expected `(?P<expected>\w+)` of length (?P<bound>[<>]=) (?P<limit>\d+)"), _wrong_length),
    (
        re.compile(r"Expected `[^`]+` (?P<bound>[<>]=?) (?P<limit>\S+)"),
        lambda found: f"must be {_BOUNDS[found['bound']]} {found['limit']}",
    ),
    (
        re.compile(r"Invalid enum value (?P<value>.+)", re.DOTALL),
        lambda found: f"is {found['value'][:100]}, which is not one of its values",
    ),
    (re.compile("Number out of range"), lambda _: "is a number out of range"),
)
"""Patterns of msgspec's messages, and the requirement that each one describes."""
