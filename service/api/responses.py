"""Response bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, Struct, UnsetType

from service.api.errors import ErrorBody
from service.index.base import Tier
from service.index.scoring import Scores

_encoder = msgspec.json.Encoder()

RENDERER_HEADER: Final = "X-Kvcache-Renderer"
PARITY_HEADER: Final = "X-Kvcache-Parity"
KNOWN_HEADER: Final = "X-Kvcache-Known-Tokens"


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response; `body` is one of the types of this file, or is composed of them."""
    return web.Response(body=json_body(body), status=status, content_type="application/json", headers=headers)


def json_body(body: object) -> bytes:
    """The body of `json_response`."""
    return _encoder.encode(body)


def origin_headers(renderer: str, parity: str | None, known: int | None) -> dict[str, str]:
    """The headers that name the renderer of the tokens, and whether they are known to equal the engines' tokens.

    `known` is the number of tokens before the first medium, if the rest is not known.
    """
    headers = {RENDERER_HEADER: renderer}
    if parity is not None:
        headers[PARITY_HEADER] = parity
    if known is not None:
        headers[KNOWN_HEADER] = str(known)
    return headers


class ScoredChat(Struct):
    """Response of /score_completions."""

    pod_scores: Scores
    model: str
    rendered_template: str | None
    """Null if only an engine rendered it, and does not tell the text."""
    original_messages: Raw


class Usage(Struct):
    """Tokens of the prompt and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Message(Struct):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str


class Choice(Struct):
    """The one choice of a completion."""

    index: int
    message: Message
    finish_reason: str
    logprobs: None = None


class Completion(Struct, kw_only=True):
    """OpenAI's chat.completion, and the scores of the prompt."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    pod_scores: Scores


class TextChoice(Struct):
    """One choice of a text completion: there is one for each prompt."""

    index: int
    text: str
    finish_reason: str
    logprobs: None = None


class TextCompletion(Struct, kw_only=True):
    """OpenAI's text_completion, and the scores of the prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    pod_scores: Scores


class Delta(Struct, omit_defaults=True):
    """The part of the message that a chunk adds."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    """The one choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: None = None


class Chunk(Struct, kw_only=True):
    """OpenAI's chat.completion.chunk; the first one has the scores."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    pod_scores: Scores | UnsetType = UNSET


class RenderedChat(Struct):
    """The model's input: vLLM's GenerateRequest without sampling parameters, and the text of the tokens."""

    request_id: str
    model: str
    token_ids: list[int]
    prompt: str | None
    lora_name: str | None
    cache_salt: str | None


class ByTier(Struct):
    """Tokens or blocks in each tier."""

    gpu: int = 0
    cpu: int = 0
    storage: int = 0

    @classmethod
    def of(cls, counts: Mapping[Tier, int]) -> ByTier:
        return cls(counts.get(Tier.GPU, 0), counts.get(Tier.CPU, 0), counts.get(Tier.STORAGE, 0))


class Match(Struct):
    """The prefix of the prompt that one rank of a pod holds."""

    pod: str
    rank: int
    score: int | float
    block_size: int
    blocks: int
    """Full blocks of the whole prompt."""
    matched_blocks: int
    matched_tokens: int
    matched_tokens_by_tier: ByTier
    matched_characters: int | None
    """Characters of the text that the match covers; null for a prompt of token ids."""


class Placed(Struct):
    """Tokens of the prompt that a rank will hold, because a request was sent there; its events do not show them yet."""

    pod: str
    rank: int
    tokens: int


class Candidate(Struct):
    """A rank that can take a request: seconds until its first token, and the cost by which ranks are chosen."""

    pod: str
    rank: int
    seconds: float
    cost: float
    uncached_tokens: int
    predicted_tokens: int
    in_flight: int


class LeftOut(Struct):
    """A pod that is no candidate, and why."""

    pod: str
    reason: str


class Foreseen(Struct):
    """The rank that a request would be routed to; `chosen` is null if no pod can take it.

    `candidates` starts with the cheapest.
    """

    chosen: Candidate | None
    candidates: list[Candidate]
    left_out: list[LeftOut]


class Explanation(Struct):
    """Response of /explain; `matches` starts with the best. `placements` and `choice` are shown on request."""

    model: str
    lora_name: str | None
    tokens: int
    text: str | None
    renderer: str
    """The renderer of the tokens; `client` for token ids in the request."""
    parity: str | None
    """Whether the tokens equal the engines': equal, differs or unknown; null for token ids in the request."""
    known_tokens: int | None
    """The number of tokens before the first medium, if those after it are not known; null if all are."""
    pod_scores: Scores
    matches: list[Match]
    placements: list[Placed]
    choice: Foreseen | None
    """Null if the request does not ask for it, or requests are forwarded to no pod."""


class Selection(Struct):
    """Response of /select: where to send a request; `candidates` starts with the cheapest.

    `headers` and fields of `body` name the rank to engines with several. `tokens` is null if the prompt's are unknown.
    """

    pod: str
    url: str
    rank: int
    headers: dict[str, str]
    body: dict[str, int]
    tokens: int | None
    predicted_tokens: int
    seconds: float
    reservation: str | None
    candidates: list[Candidate]
    left_out: list[LeftOut]


class Reserved(Struct):
    """Response of /reservations: whether the reservation goes on."""

    id: str
    active: bool


class Registered(Struct, omit_defaults=True):
    """Response of /register and /unregister."""

    status: str
    instance_id: str | None = None
    removed_instances: list[str] = msgspec.field(default_factory=list)


class Tokenized(Struct):
    """vLLM's response of /tokenize."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str | None] | None = None


class Detokenized(Struct):
    """vLLM's response of /detokenize."""

    prompt: str


class ModelCard(Struct, kw_only=True):
    """OpenAI's model object; a LoRA has its base model as parent, as in vLLM's response."""

    id: str
    object: Literal["model"] = "model"
    created: int
    parent: str | None
    root: str | None = None
    """The name or path that the engine loaded it from."""
    max_model_len: int | None = None
    owned_by: str = "kvcache"
    renderer: str | None = None
    """The renderer of its chats, when it is loaded."""
    parity: str | None = None
    """Whether our tokens equal those of its engines: equal, differs or unknown; null without an engine to ask."""


class ModelList(Struct, kw_only=True):
    """Response of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class PodRank(Struct):
    """One prefix cache: a data-parallel rank of a pod, for one model."""

    pod: str
    model: str
    rank: int
    endpoint: str | None
    connected: bool
    exact: bool
    inexact_reason: str | None
    claimants: list[str]
    """Addresses of other endpoints whose messages about this rank are refused, since `endpoint` spoke for it first."""
    last_sequence: int | None
    last_event_age_seconds: float | None
    block_sizes: list[int]
    blocks: ByTier
    unsupported_groups: list[str]
    """Kinds of KV-cache groups that the rank announces and the index does not support; their blocks do not count."""
    not_understood: list[str]
    """The former name of `unsupported_groups`; removed in the next release."""
    fleet_pod: str | None = None
    """The pod of `fleet` that publishes events under this name."""
    events_applied: int = 0
    """Since the start of the service."""
    lag_seconds: float | None = None
    """From the engine's timestamp of its last batch to its application."""


class ParityDifference(Struct):
    """The first request whose tokens differ, and the texts from the first differing token on."""

    request: str
    position: int
    here: str
    engine: str


class ModelParity(Struct):
    """Whether our tokens for a model equal those of a pod's engine: equal, differs or unknown."""

    model: str
    verdict: str
    chats: str
    texts: str
    renderer: str | None
    compared: int
    """Requests that were compared."""
    differing: list[str]
    """Names of the requests whose tokens differ."""
    difference: ParityDifference | None
    reason: str | None
    remedy: str | None


class RoutedTokens(Struct):
    """Answers of a pod that had a usage, and the tokens of their prompts: all; what the best pod held; what the chosen
    one held; what its engine reused.
    """

    requests: int = 0
    prompt: int = 0
    available: int = 0
    captured: int = 0
    delivered: int = 0


class FleetPod(Struct):
    """A pod that requests are forwarded to; `breaker` is the state of its circuit breaker."""

    name: str
    url: str
    healthy: bool | None
    problem: str | None
    breaker: str
    draining: bool
    weight: float
    in_flight: int
    models: list[str]
    ranks: int | None
    version: str | None
    running: float | None
    waiting: float | None
    cache_usage: float | None
    cache_hit_rate: float | None
    parity: list[ModelParity]
    reuse: str
    """equal, less or more: what its engine reuses, compared with predictions; unknown before several answers."""
    routed: RoutedTokens


class FleetSource(Struct):
    """A source of DISCOVERY, or the file of PODS_FILE."""

    source: str
    pods: int
    """Number of pods that it names; while it fails, that of its last answer, whose pods are kept."""
    failing: bool
    problem: str | None
    """Why it fails, or why a pod that it names is left out."""


class PodList(Struct):
    """Response of /pods: the ranks that publish events, the pods that receive forwarded requests, and their sources."""

    pods: list[PodRank]
    fleet: list[FleetPod]
    discovery: list[FleetSource]


class ServiceFigures(Struct):
    """The state of the service itself; counters since its start."""

    not_ready: list[str]
    """Why it is not ready, as GET /ready says."""
    silent: list[str]
    """Why nothing arrives from an endpoint, and the remedy."""
    events_applied: int
    batches_lost: int
    batches_waiting: int
    """Batches that wait until a replay ends."""
    lag_seconds: float
    """From the engine's timestamp of the last batch to its application."""
    processes: int
    """Workers of this machine that answered, this one included."""


class PodKey(Struct):
    """The name of a rank."""

    pod: str
    model: str
    rank: int


class PodUpdate(Struct):
    """An event of GET /pods: the ranks and pods that are new or have changed, and the names of those that are gone.

    The first one has all of them.
    """

    pods: list[PodRank]
    fleet: list[FleetPod]
    discovery: list[FleetSource]
    gone: list[PodKey]
    gone_from_fleet: list[str]
    service: ServiceFigures


class EndpointStatus(Struct):
    """An endpoint that events come from."""

    address: str
    state: str
    """closed, resolving, unresolved, connecting, refused, listening, connected (nothing heard yet) or heard."""
    connections: int
    messages: int
    last_message_age_seconds: float | None
    topics_left_out: list[str]
    """Topics that came and that do not start with ZMQ_TOPIC, the first ten."""
    pods: list[str]
    problem: str | None
    """Why nothing arrives, and the remedy; null when messages arrive."""


class EndpointList(Struct):
    """Response of /endpoints."""

    endpoints: list[EndpointStatus]


class Forgotten(Struct):
    """Response of DELETE /pods/{pod}."""

    pod: str
    forgotten: bool


class Refreshed(Struct):
    """Response of POST /models/refresh; `changed` tells whether the model's files had changed."""

    model: str
    changed: bool


class Ready(Struct):
    """Response of /ready when the service is ready."""

    ready: bool
    reasons: list[str]
    shared_state: str | UnsetType = UNSET
    """State of the shared store: up, or down with the time and the reason. It never makes the answer 503."""


class NotReady(ErrorBody):
    """Response of /ready with status 503: an error, and the list of its reasons."""

    ready: bool
    reasons: list[str]
    shared_state: str | UnsetType = UNSET
