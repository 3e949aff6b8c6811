from __future__ import annotations

import msgspec
import pytest

from service.api.errors import ApiError
from service.api.requests import ChatRequest, CompletionRequest, DetokenizeRequest, PodChange, ScoreRequest, decode


def rejected(kind: type, body: bytes) -> tuple[str, str | None, str]:
    with pytest.raises(ApiError) as refusal:
        decode(msgspec.json.Decoder(kind), body)
    assert refusal.value.status == 400
    detail = refusal.value.detail
    return detail.message, detail.param, detail.code


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        (b"", "the request has no body; send a JSON object", None, "invalid_json"),
        (b"{", "the body is not valid JSON: it ends too early", None, "invalid_json"),
        (b"hello", "the body is not valid JSON: invalid character (byte 0)", None, "invalid_json"),
        (b'{"prompt": NaN}', "the body is not valid JSON: invalid character (byte 11)", None, "invalid_json"),
        (b'{"prompt": "\xff"}', "the body is not valid UTF-8", None, "invalid_json"),
        (b'{"model": ' + b"[" * 100_000, "`model` must be a string or null, not an array", "model", "invalid_value"),
        (b"[]", "the body must be an object, not an array", None, "invalid_value"),
        (b"{}", "`prompt` is missing", "prompt", "missing_field"),
        (b'{"prompt": null}', "`prompt` must be a string or an array, not null", "prompt", "invalid_value"),
        (b'{"prompt": []}', "`prompt` must not be empty", "prompt", "invalid_value"),
        (
            b'{"prompt": [1, true]}',
            "`prompt[1]` must be a whole number, a string or an array, not true or false",
            "prompt[1]",
            "invalid_value",
        ),
        (
            b'{"prompt": [1.0]}',
            "`prompt[0]` must be a whole number, a string or an array, not a number",
            "prompt[0]",
            "invalid_value",
        ),
        (b'{"prompt": [1, -2]}', "`prompt[1]` must be at least 0", "prompt[1]", "invalid_value"),
        (b'{"prompt": [[4294967296]]}', "`prompt[0][0]` must be at most 4294967295", "prompt[0][0]", "invalid_value"),
        (b'{"prompt": "a", "top": 0}', "`top` must be at least 1", "top", "invalid_value"),
        (b'{"prompt": "a", "pods": []}', "`pods` must not be empty", "pods", "invalid_value"),
        (b'{"prompt": "a", "pods": [1]}', "`pods[0]` must be a string, not a whole number", "pods[0]", "invalid_value"),
        (b'{"prompt": "a", "cache_salt": ""}', "`cache_salt` must not be empty", "cache_salt", "invalid_value"),
        (
            b'{"prompt": "a", "lora_name": "%s"}' % (b"x" * 1025),
            "`lora_name` must have at most 1024 characters",
            "lora_name",
            "invalid_value",
        ),
        (
            b'{"prompt": "a", "add_special_tokens": 1}',
            "`add_special_tokens` must be true or false, not a whole number",
            "add_special_tokens",
            "invalid_value",
        ),
    ],
)
def test_an_invalid_score_request_is_rejected_with_the_field_at_fault(
    body: bytes, message: str, param: str | None, code: str
) -> None:
    assert rejected(ScoreRequest, body) == (message, param, code)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b'{"messages": "hi"}', "`messages` must be an array, not a string", "messages"),
        (b'{"messages": [1]}', "`messages[0]` must be an object, not a whole number", "messages[0]"),
        (b'{"messages": [{"a": 1e999}]}', "`messages[0]` is a number out of range", "messages[0]"),
        (
            b'{"messages": [], "reasoning_effort": "heroic"}',
            "`reasoning_effort` is 'heroic', which is not one of its values",
            "reasoning_effort",
        ),
        (
            b'{"messages": [' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}",
            "the body is nested too deeply",
            None,
        ),
        (b'{"messages": [{"\\ud800": 1}]}', "the body holds a lone surrogate", None),
    ],
)
def test_an_invalid_chat_request_is_rejected_with_the_field_at_fault(
    body: bytes, message: str, param: str | None
) -> None:
    said, named, _ = rejected(ChatRequest, body)
    assert said.startswith(message)
    assert named == param


def test_an_unknown_field_of_a_change_is_named() -> None:
    assert rejected(PodChange, b'{"colour": 1}') == ("`colour` is not a field of this body", "colour", "unknown_field")


def test_unknown_fields_are_ignored() -> None:
    body = b'{"messages": [], "temperature": 0.5, "n": 1, "seed": null, "x": [[[{}]]], "stream": null}'
    assert decode(msgspec.json.Decoder(CompletionRequest), body).stream is None


@pytest.mark.parametrize("kind", [ScoreRequest, ChatRequest, CompletionRequest, DetokenizeRequest])
@pytest.mark.parametrize("value", [b"0", b"-1", b"1.5", b"true", b'"x"', b"[]", b"[[]]", b"{}", b'{"a":[1]}', b"null"])
def test_messages_never_mention_python_types(kind: type, value: bytes) -> None:
    for field in msgspec.structs.fields(kind):
        body = b'{"%s": %s}' % (field.encode_name.encode(), value)
        try:
            decode(msgspec.json.Decoder(kind), body)
        except ApiError as refusal:
            words = refusal.detail.message
            assert not any(word in words for word in ("int", "str ", "bool", "None", "$", "Expected", "float", "holds"))
