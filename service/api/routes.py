"""The table of endpoints, for the router and for /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp.typedefs import Handler

from service.api import (
    completions,
    fleet,
    forwarding,
    indexer,
    operations,
    page,
    request_events,
    requests,
    responses,
    scoring,
    selection,
    snapshot,
    tokens,
)
from service.api.at_once import Work
from service.index.scoring import Scores
from service.routing.request_listeners import RoutedRequest


class Route(msgspec.Struct, frozen=True):
    """An endpoint: `bodies` are the alternative types of its body, `responses` the types of a 200 by media type."""

    method: str
    path: str
    handler: Handler
    responses: dict[str, Any]
    bodies: Sequence[type] = ()
    errors: Sequence[int] = ()
    is_forwarded: bool = False
    """Whether it waits for an engine, and so takes no place here."""
    at_once: Work | None = None
    """Answers requests that wait for nothing."""

    @property
    def is_described(self) -> bool:
        """Whether the OpenAPI document has it: the page for browsers is none of the API."""
        return self.path not in _PAGE

    @property
    def needs_certificate(self) -> bool:
        """Whether it needs one of TLS_CLIENT_CA, if that is set."""
        return self.path not in _PROBES

    @property
    def permissions(self) -> tuple[str, ...]:
        """The permissions of which an API key needs one; empty for endpoints that need no key."""
        if self.path in _OPEN:
            return ()
        if self.path in _ADMIN or (self.path.startswith(("/pods", "/models")) and self.method != "GET"):
            return ("admin",)
        if self.path in _MODEL_LISTS:
            return ("read", "route")
        return ("route",) if self.is_forwarded or self.path.startswith(_ROUTING) else ("read",)


_PROBES: Final = ("/health", "/ready")
_PAGE: Final = ("/", "/ui", "/ui/{file}")
"""It has no data of its own, and asks for a key."""
_OPEN: Final = (*_PROBES, *_PAGE)
_ADMIN: Final = ("/register", "/unregister", "/snapshot")
_MODEL_LISTS: Final = ("/v1/models", "/v1/models/{model:.+}")
"""Clients of the gateway ask for them first."""
_ROUTING: Final = ("/select", "/reservations/")
_BODY_ERRORS: Final = (400, 408, 413, 415, 429)
_MODEL_ERRORS: Final = (*_BODY_ERRORS, 404, 503)


def _json(response: Any) -> dict[str, Any]:
    return {"application/json": response}


ROUTES: Final = (
    Route("GET", "/health", operations.health, {"text/plain": str}),
    Route("GET", "/ready", operations.ready, _json(responses.Ready), errors=(503,)),
    Route("GET", "/metrics", operations.metrics, {"text/plain": str}),
    Route("GET", "/", page.root, {"text/html": str}),
    Route("GET", "/ui", page.page, {"text/html": str}),
    Route("GET", "/ui/{file}", page.page_file, {"text/javascript": str, "text/css": str}, errors=(404,)),
    Route("GET", "/openapi.json", operations.openapi, _json(dict[str, Any])),
    Route(
        "POST",
        "/score",
        scoring.score,
        _json(Scores),
        (requests.ScoreRequest, requests.ChatRequest),
        _MODEL_ERRORS,
        at_once=scoring.score_at_once,
    ),
    Route(
        "POST",
        "/score_completions",
        scoring.score_completions,
        _json(responses.ScoredChat),
        (requests.ChatRequest,),
        _MODEL_ERRORS,
    ),
    Route(
        "POST",
        "/explain",
        scoring.explain,
        _json(responses.Explanation),
        (requests.ExplainPrompt, requests.ExplainChat),
        _MODEL_ERRORS,
    ),
    Route(
        "POST",
        "/v1/chat/completions",
        completions.complete,
        {"application/json": responses.Completion, "text/event-stream": responses.Chunk},
        (requests.CompletionRequest,),
        (*_MODEL_ERRORS, 502, 504),
        is_forwarded=True,
    ),
    Route(
        "POST",
        "/v1/chat/completions/render",
        completions.render,
        _json(responses.RenderedChat),
        (requests.ChatRequest,),
        _MODEL_ERRORS,
    ),
    Route(
        "POST",
        "/v1/completions",
        completions.complete_text,
        _json(responses.TextCompletion),
        (requests.ScoreRequest,),
        errors=(*_MODEL_ERRORS, 502, 504),
        is_forwarded=True,
    ),
    Route("GET", "/v1/models", operations.models, _json(responses.ModelList)),
    Route("GET", "/v1/models/{model:.+}", operations.model, _json(responses.ModelCard), errors=(404,)),
    Route(
        "POST",
        "/models/refresh",
        operations.refresh_model,
        _json(responses.Refreshed),
        (requests.RefreshRequest,),
        _MODEL_ERRORS,
    ),
    Route(
        "POST",
        "/tokenize",
        tokens.tokenize,
        _json(responses.Tokenized),
        (requests.TokenizeRequest, requests.TokenizeChatRequest),
        _MODEL_ERRORS,
    ),
    Route(
        "POST",
        "/detokenize",
        tokens.detokenize,
        _json(responses.Detokenized),
        (requests.DetokenizeRequest,),
        _MODEL_ERRORS,
    ),
    Route(
        "POST",
        "/select",
        selection.select,
        _json(responses.Selection),
        (requests.SelectPrompt, requests.SelectChat),
        _MODEL_ERRORS,
    ),
    Route(
        "POST",
        "/reservations/{id:[^/]+}/first_token",
        selection.note_first_token,
        _json(responses.Reserved),
        errors=(404,),
    ),
    Route("DELETE", "/reservations/{id:[^/]+}", selection.end_reservation, _json(responses.Reserved), errors=(404,)),
    Route(
        "POST",
        "/query",
        indexer.query,
        _json(dict[str, Any]),
        (requests.TokenQuery,),
        _BODY_ERRORS,
        at_once=indexer.query_at_once,
    ),
    Route("POST", "/query_by_hash", indexer.query_by_hash, _json(dict[str, Any]), (requests.HashQuery,), _BODY_ERRORS),
    Route(
        "POST",
        "/register",
        indexer.register,
        _json(responses.Registered),
        (requests.Registration,),
        (*_BODY_ERRORS, 409),
    ),
    Route(
        "POST",
        "/unregister",
        indexer.unregister,
        _json(responses.Registered),
        (requests.Unregistration,),
        (*_BODY_ERRORS, 404),
    ),
    Route("GET", "/endpoints", operations.endpoints, _json(responses.EndpointList)),
    Route("GET", "/snapshot", snapshot.snapshot, {"application/octet-stream": bytes}, errors=(503,)),
    Route(
        "GET",
        "/pods",
        operations.pods,
        {"application/json": responses.PodList, "text/event-stream": responses.PodUpdate},
        errors=(429,),
    ),
    Route("GET", "/requests", request_events.requests, {"text/event-stream": RoutedRequest}, errors=(429,)),
    Route("POST", "/pods", fleet.add_pod, _json(responses.FleetPod), (requests.NewPod,), (*_BODY_ERRORS, 409)),
    Route(
        "PATCH",
        "/pods/{pod:.+}",
        fleet.change_pod,
        _json(responses.FleetPod),
        (requests.PodChange,),
        (*_BODY_ERRORS, 404),
    ),
    Route("DELETE", "/pods/{pod:.+}", operations.forget_pod, _json(responses.Forgotten), errors=(404,)),
    *(
        Route(
            method,
            "/v1/{path:.+}",
            handler,
            _json(dict[str, Any]),
            errors=(*_MODEL_ERRORS, 502, 504),
            is_forwarded=True,
        )
        for method, handler in (
            ("POST", forwarding.forward),
            ("GET", forwarding.forward_get),
            ("DELETE", forwarding.forward_delete),
            ("PUT", forwarding.forward_put),
            ("PATCH", forwarding.forward_patch),
            ("OPTIONS", forwarding.forward_options),
        )
    ),
)
