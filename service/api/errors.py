"""Error responses; every one has OpenAI's body `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import web

from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError, PromptTooLong

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_CODES: Final = {
    400: "invalid_value",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    415: "unsupported_encoding",
    417: "expectation_failed",
    429: "too_many_requests",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}
_MOST_CHARACTERS: Final = 900
"""Of a message: some repeat a value of the request, which may be of any length."""
_BODY_NOT_READ: Final = (401, 403, 408, 413, 415, 429)


class ErrorDetail(msgspec.Struct):
    """The reason and the remedy, OpenAI's error type, the field at fault, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct):
    """The body of every error."""

    error: ErrorDetail


class ApiError(Exception):
    """Answers the request with an error; `param` names the field at fault."""

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
        if len(message) > _MOST_CHARACTERS:
            message = f"{message[:_MOST_CHARACTERS]}…"
        self.detail = ErrorDetail(message, _TYPES.get(status, default), param, code or _CODES.get(status, "error"))

    def body(self) -> bytes:
        """The error as JSON."""
        return msgspec.json.encode(ErrorBody(self.detail))

    def response(self) -> web.Response:
        """The response; it closes the connection when part of the body was not read."""
        response = web.Response(
            status=self.status, body=self.body(), content_type="application/json", headers=self.headers
        )
        if self.status in _BODY_NOT_READ:
            response.force_close()
        return response


def prompt_error(error: PromptError | ModelNotFound | ModelUnavailable, retry_after: float) -> ApiError:
    """The response to an error of the prompts package; `retry_after` is in seconds."""
    match error:
        case PromptTooLong():
            return ApiError(413, error.message, param=error.param)
        case PromptError():
            return ApiError(400, error.message, param=error.param)
        case ModelNotFound():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case ModelUnavailable():
            headers = {"Retry-After": f"{max(1, round(retry_after))}"}
            return ApiError(503, str(error), param="model", code="model_unavailable", headers=headers)


def framework_error(error: web.HTTPException, path: str) -> ApiError:
    """The response to a request that aiohttp rejected."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return ApiError(405, f"{path} takes {allowed}, not {error.method}", headers={"Allow": allowed})
        case web.HTTPNotFound():
            return ApiError(404, f"there is no endpoint {path}; GET /openapi.json lists them")
        case web.HTTPRequestEntityTooLarge():
            return ApiError(413, "the request body is too large")
        case _:
            return ApiError(error.status, error.reason.lower())
