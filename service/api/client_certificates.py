"""Answers 401 to clients without a certificate, where TLS_CLIENT_CA asks for one."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from service.api.errors import ApiError
from service.api.traffic import RequestKind, Traffic

_ERROR = ApiError(
    401, "a client certificate of an authority in TLS_CLIENT_CA is needed", code="client_certificate_required"
)


def with_client_certificate(handler: Handler, path: str, traffic: Traffic) -> Handler:
    """Wraps a handler; the handshake has already verified the certificate of a client that has one."""

    async def handle(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is not None and not transport.get_extra_info("peercert"):
            traffic.count(RequestKind(request.method, path, _ERROR.status), 0.0)
            return _ERROR.response()
        return await handler(request)

    return handle
