"""POST /query, /query_by_hash, /register and /unregister, for clients of other KV-cache indexers.

Sources: Mooncake's RFC 1403 (docs/source/design/conductor/indexer-api-design.md), its client in
mooncake-conductor/example/cache_aware_disagg_proxy.py, which speaks msgpack, and Dynamo's standalone indexer 1.6
(lib/kv-router/src/services/indexer). Their fields differ: requests may have the names of all, and answers have the
forms of all.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from service.api.at_once import Headers
from service.api.body import read_body
from service.api.errors import ApiError
from service.api.requests import HashQuery, PackedTokenQuery, Registration, TokenQuery, Unregistration, decode
from service.api.resources import INDEX, POOL, PUBLISHERS, RESOLVER
from service.api.responses import Registered, json_body, json_response
from service.contract.endpoints import Endpoint, parse_endpoints
from service.index.base import Prompt, RankMatch, Tier, TokenIds
from service.replicas.publishers import DEFAULT_TENANT

Asked = TypeVar("Asked")
_MSGPACK: Final = "application/msgpack"
_TOKEN_BYTES: Final = 4
_decoders: Final[dict[type, tuple[msgspec.json.Decoder[Any], msgspec.msgpack.Decoder[Any]]]] = {
    kind: (msgspec.json.Decoder(kind), msgspec.msgpack.Decoder(kind))
    for kind in (TokenQuery, PackedTokenQuery, HashQuery, Registration, Unregistration)
}


async def _asked(request: web.Request, kind: type[Asked]) -> Asked:
    """The decoded body, of JSON or msgpack."""
    body = await read_body(request)
    asked: Asked = decode(_decoders[kind][request.content_type == _MSGPACK], body)
    return asked


def _response(request: web.Request, answer: object) -> web.Response:
    """The answer in the form of the request."""
    if request.content_type == _MSGPACK:
        return web.Response(body=msgspec.msgpack.encode(answer), content_type=_MSGPACK)
    return json_response(answer)


async def query(request: web.Request) -> web.Response:
    """Says how many tokens of a prompt each pod holds, in the form of Mooncake's and Dynamo's indexers."""
    asked = await _asked(request, PackedTokenQuery if request.content_type == _MSGPACK else TokenQuery)
    return _response(request, _matched(request.app, asked))


def query_at_once(app: web.Application, headers: Mapping[str, str], body: bytes) -> tuple[Headers, bytes] | None:
    """As `query`, in JSON."""
    if "msgpack" in headers.get("Content-Type", "").lower():
        return None
    return (), json_body(_matched(app, decode(_decoders[TokenQuery][0], body)))


def _matched(app: web.Application, asked: TokenQuery) -> dict[str, Any]:
    if asked.lora_id:
        raise ApiError(400, "`lora_id` is not known here; give `lora_name`", param="lora_id")
    tokens = _tokens(asked)
    app[RESOLVER].limits.check_prompts([tokens])
    prompt = Prompt(_model(asked.model, asked.model_name), tokens, asked.lora_name or None, asked.cache_salt or None)
    return _answer(app, app[INDEX].match(prompt), asked)


def _tokens(asked: TokenQuery) -> TokenIds:
    if not isinstance(asked, PackedTokenQuery):
        return array("I", asked.token_ids)
    if len(asked.token_ids) % _TOKEN_BYTES:
        raise ApiError(400, "`token_ids` must be 32-bit integers", param="token_ids")
    tokens = array("I")
    tokens.frombytes(asked.token_ids)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens


async def query_by_hash(request: web.Request) -> web.Response:
    """Says how many of an engine's consecutive block hashes each pod holds."""
    asked = await _asked(request, HashQuery)
    if asked.cache_salt is not None:
        raise ApiError(400, "`cache_salt` is part of the hashes already; leave it out", param="cache_salt")
    given = asked.seq_hashes or asked.block_hashes or asked.block_hash
    if not all(-(2**63) <= value < 2**64 for value in given):
        raise ApiError(400, "hashes must be of 64 bits", param="seq_hashes")
    hashes = [value - 2**64 if value >= 2**63 else value for value in given]
    matches = request.app[INDEX].match_hashes(_model(asked.model, asked.model_name), hashes)
    return _response(request, _answer(request.app, matches, asked))


async def register(request: web.Request) -> web.Response:
    """Follows the events of an engine, under the name `instance_id`; requests are not forwarded to it."""
    asked = await _asked(request, Registration)
    name = str(asked.instance_id)
    try:
        endpoint = _one_endpoint(asked.endpoint)
        if asked.replay_endpoint:
            parse_endpoints(asked.replay_endpoint)
    except ValueError as error:
        raise ApiError(400, str(error), param="endpoint") from None
    endpoint = Endpoint(
        endpoint.address,
        pod=name,
        model=_model(asked.modelname, asked.model_name),
        replay=asked.replay_endpoint or None,
    )
    tenant = _tenant(asked) or DEFAULT_TENANT
    known = request.app[PUBLISHERS].get(name)
    if known is not None and (asked.dp_rank in known.endpoints or known.tenant != tenant):
        raise ApiError(409, f"{name} (rank {asked.dp_rank}) is registered already", param="instance_id", code="exists")
    if any(report.address == endpoint.address for report in request.app[POOL].endpoints()):
        raise ApiError(409, f"{endpoint.address} is followed already", param="endpoint", code="exists")
    request.app[PUBLISHERS].add(name, asked.dp_rank, tenant, endpoint)
    return _response(request, Registered("registered successfully", instance_id=name))


def _one_endpoint(text: str) -> Endpoint:
    endpoint, *others = parse_endpoints(text)
    if others:
        raise ValueError(f"names {1 + len(others)} addresses; register each by itself")
    return endpoint


async def unregister(request: web.Request) -> web.Response:
    """Ends following an engine that was registered, or one of its ranks, and drops its blocks."""
    asked = await _asked(request, Unregistration)
    name = str(asked.instance_id)
    known = request.app[PUBLISHERS].get(name)
    if known is None or _tenant(asked) not in (None, known.tenant):
        raise _unknown(name)
    ranks = [rank for rank in known.endpoints if asked.dp_rank in (None, rank)]
    if not ranks:
        raise _unknown(f"{name} (rank {asked.dp_rank})")
    for rank in ranks:
        request.app[PUBLISHERS].remove(name, rank)
    removed = [f"{name}|{known.tenant}|{rank}" for rank in ranks]
    return _response(request, Registered("unregistered successfully", removed_instances=removed))


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"{name} is not registered", param="instance_id", code="pod_not_found")


def _tenant(asked: TokenQuery | HashQuery | Registration | Unregistration) -> str | None:
    return asked.routing_group or asked.tenant_id or None


def _model(*names: str | None) -> str:
    name = next(filter(None, names), None)
    if name is None:
        raise ApiError(400, "`model` is missing", param="model")
    return name


def _answer(app: web.Application, matches: Iterable[RankMatch], asked: TokenQuery | HashQuery) -> dict[str, Any]:
    """All counts are tokens. Those of a tier include the faster tiers, as in Dynamo and Mooncake."""
    registered, tenant = app[PUBLISHERS], _tenant(asked) or DEFAULT_TENANT
    wanted = None if asked.instance_id is None else str(asked.instance_id)
    scores: dict[str, dict[str, int]] = {}
    instances: dict[str, dict[str, Any]] = {}
    for match in matches:
        name, rank = match.rank.pod, str(match.rank.number)
        known = registered.get(name)
        if not match.tokens or wanted not in (None, name) or (known is not None and known.tenant != tenant):
            continue
        gpu = match.tokens_by_tier.get(Tier.GPU, 0)
        cpu = gpu + match.tokens_by_tier.get(Tier.CPU, 0)
        scores.setdefault(name, {})[rank] = gpu
        held = instances.setdefault(name, {"longest_matched": 0, "gpu": 0, "cpu": 0, "disk": 0, "dp": {}, "DP": {}})
        for key, tokens in (("longest_matched", match.tokens), ("gpu", gpu), ("cpu", cpu), ("disk", match.tokens)):
            held[key] = max(held[key], tokens)
        held["dp"][rank] = gpu
        held["DP"][rank] = match.tokens
    mooncake = {
        name: {
            "longest_matched": one["longest_matched"],
            "GPU": one["gpu"],
            "DP": one.pop("DP"),
            "CPU": one["cpu"],
            "DISK": one["disk"],
        }
        for name, one in instances.items()
    }
    return {"scores": scores, "frequencies": [], "instances": instances, tenant: mooncake}
