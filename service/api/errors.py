"""Errors out: every one has OpenAI's body `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import web

from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError

_TYPES: Final = {404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
_CODES: Final = {
    400: "invalid_value",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    417: "expectation_failed",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
}
_UNREAD_BODY: Final = (408, 413)


class ErrorDetail(msgspec.Struct):
    """What went wrong and what to do, its class, the field of the request at fault, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct):
    """The body of every error."""

    error: ErrorDetail


class Refusal(Exception):
    """A request that is answered with an error; `param` names the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        default = "invalid_request_error" if status < 500 else "server_error"
        self.detail = ErrorDetail(message, _TYPES.get(status, default), param, code or _CODES.get(status, "error"))

    def body(self) -> bytes:
        """The error as JSON."""
        return msgspec.json.encode(ErrorBody(self.detail))

    def response(self) -> web.Response:
        """The answer to send; it closes the connection when part of the request was never read."""
        answer = web.Response(
            status=self.status, body=self.body(), content_type="application/json", headers=self.headers
        )
        if self.status in _UNREAD_BODY:
            answer.force_close()
        return answer


def refusal_of_prompt(error: PromptError | ModelNotFound | ModelUnavailable, retry_after: float) -> Refusal:
    """What a client is told of an error of the prompts package; `retry_after` in seconds."""
    match error:
        case PromptError():
            return Refusal(400, error.message, param=error.param)
        case ModelNotFound():
            return Refusal(404, str(error), param="model", code="model_not_found")
        case ModelUnavailable():
            headers = {"Retry-After": f"{max(1, round(retry_after))}"}
            return Refusal(503, str(error), param="model", code="model_unavailable", headers=headers)


def refusal_of_framework(error: web.HTTPException, path: str) -> Refusal:
    """What a client is told of a request that aiohttp itself turned away."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Refusal(405, f"{path} takes {allowed}, not {error.method}", headers={"Allow": allowed})
        case web.HTTPNotFound():
            return Refusal(404, f"there is no {path} here; GET /openapi.json lists what there is")
        case web.HTTPRequestEntityTooLarge():
            return Refusal(413, "the request body is too large")
        case _:
            return Refusal(error.status, error.reason.lower())
