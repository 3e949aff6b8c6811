"""The table of endpoints: what is routed, and what /openapi.json says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp.typedefs import Handler

from service.api import completions, operations, requests, responses, scoring, tokens


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint: `bodies` are the types of which it takes one, `answers` what a 200 holds, by media type."""

    method: str
    path: str
    handler: Handler
    answers: dict[str, Any]
    bodies: Sequence[type] = ()
    errors: Sequence[int] = ()


_BODY: Final = (400, 408, 413, 429)
_MODEL: Final = (*_BODY, 404, 503)


def _json(answer: Any) -> dict[str, Any]:
    return {"application/json": answer}


ROUTES: Final = (
    Route("GET", "/health", operations.health, {"text/plain": str}),
    Route("GET", "/ready", operations.ready, _json(responses.Ready), errors=(503,)),
    Route("GET", "/metrics", operations.metrics, {"text/plain": str}),
    Route("GET", "/openapi.json", operations.openapi, _json(dict[str, Any])),
    Route(
        "POST",
        "/score",
        scoring.score,
        _json(responses.Scores),
        (requests.ScoreRequest, requests.ChatRequest),
        _MODEL,
    ),
    Route(
        "POST",
        "/score_completions",
        scoring.score_completions,
        _json(responses.ScoredChat),
        (requests.ChatRequest,),
        _MODEL,
    ),
    Route(
        "POST",
        "/explain",
        scoring.explain,
        _json(responses.Explanation),
        (requests.ScoreRequest, requests.ChatRequest),
        _MODEL,
    ),
    Route(
        "POST",
        "/v1/chat/completions",
        completions.complete,
        {"application/json": responses.Completion, "text/event-stream": responses.Chunk},
        (requests.CompletionRequest,),
        _MODEL,
    ),
    Route(
        "POST",
        "/v1/chat/completions/render",
        completions.render,
        _json(responses.RenderedChat),
        (requests.ChatRequest,),
        _MODEL,
    ),
    Route("GET", "/v1/models", operations.models, _json(responses.ModelList)),
    Route(
        "POST",
        "/tokenize",
        tokens.tokenize,
        _json(responses.Tokenized),
        (requests.TokenizeRequest, requests.TokenizeChatRequest),
        _MODEL,
    ),
    Route(
        "POST", "/detokenize", tokens.detokenize, _json(responses.Detokenized), (requests.DetokenizeRequest,), _MODEL
    ),
    Route("GET", "/pods", operations.pods, _json(responses.PodList)),
    Route("DELETE", "/pods/{pod:.+}", operations.forget_pod, _json(responses.Forgotten), errors=(404, 429)),
)
