"""Makes the OpenAPI document from the table of endpoints and the types of their bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from service.api.errors import ErrorBody
from service.api.routes import Route
from service.api.schema_facts import EVENTS, event_of, with_facts

_TEMPLATE: Final = "#/components/schemas/{name}"
_PATTERN: Final = re.compile(r"\{(\w+):[^}]*\}")


def document(routes: Sequence[Route]) -> bytes:
    """An OpenAPI 3.1 document as JSON."""
    types = [ErrorBody, *(body for route in routes for body in (*route.bodies, *route.responses.values()))]
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PATTERN.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, schema_of)
    described = {
        "openapi": "3.1.0",
        "info": {
            "title": "kvcache",
            "version": own_version() or "unknown",
            "description": "Tells which LLM engine holds the longest prefix of a prompt in its KV cache.",
        },
        "paths": paths,
        "components": {"schemas": with_facts(components)},
    }
    return msgspec.json.encode(described)


def _operation(route: Route, path: str, schema_of: dict[str, Any]) -> dict[str, Any]:
    summary = (route.handler.__doc__ or "").strip().partition("\n")[0]
    content = {
        media: {"schema": event_of(schema_of[repr(response)]) if media == EVENTS else schema_of[repr(response)]}
        for media, response in route.responses.items()
    }
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": summary,
        "responses": {"200": {"description": "OK", "content": content}},
    }
    error = {"application/json": {"schema": schema_of[repr(ErrorBody)]}}
    for status in sorted(route.errors):
        operation["responses"][str(status)] = {"description": HTTPStatus(status).phrase, "content": error}
    if route.bodies:
        bodies = [schema_of[repr(body)] for body in route.bodies]
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if names := re.findall(r"\{(\w+)\}", path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return operation


def own_version() -> str | None:
    """The version of the installed package; None where it runs from files, as in the image."""
    try:
        return version("kvcache")
    except PackageNotFoundError:
        return None
