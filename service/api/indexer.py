"""POST /query, /query_by_hash, /register and /unregister, for clients of other KV-cache indexers.

Sources: Mooncake's RFC 1403 (docs/source/design/conductor/indexer-api-design.md) and Dynamo's standalone indexer, whose
fields differ: requests may have the names of both, and answers have the forms of both.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from service.api.body import read_body
from service.api.errors import ApiError
from service.api.requests import HashQuery, Registration, TokenQuery, Unregistration, decode
from service.api.resources import INDEX, POOL, REGISTERED, RESOLVER
from service.api.responses import Registered, json_response
from service.contract.endpoints import Endpoint, parse_endpoints
from service.index.base import Prompt, RankMatch, Tier

_token_query = msgspec.json.Decoder(TokenQuery)
_hash_query = msgspec.json.Decoder(HashQuery)
_registration = msgspec.json.Decoder(Registration)
_unregistration = msgspec.json.Decoder(Unregistration)


async def query(request: web.Request) -> web.Response:
    """Says how many tokens of a prompt each pod holds, in the form of Mooncake's and Dynamo's indexers."""
    asked = decode(_token_query, await read_body(request))
    limits = request.app[RESOLVER].limits
    tokens = array("I", asked.token_ids)
    limits.check_prompts([tokens])
    prompt = Prompt(_model(asked.model, asked.model_name), tokens, asked.lora_name or None, asked.cache_salt or None)
    matches = request.app[INDEX].match(prompt)
    return json_response(_answer(matches, asked.tenant_id, asked.instance_id))


async def query_by_hash(request: web.Request) -> web.Response:
    """Says how many of an engine's consecutive block hashes each pod holds."""
    asked = decode(_hash_query, await read_body(request))
    if asked.cache_salt is not None:
        raise ApiError(400, "`cache_salt` is part of the hashes already; leave it out", param="cache_salt")
    given = asked.seq_hashes or asked.block_hashes or asked.block_hash
    if not all(-(2**63) <= value < 2**64 for value in given):
        raise ApiError(400, "hashes must be of 64 bits", param="seq_hashes")
    hashes = [value - 2**64 if value >= 2**63 else value for value in given]
    matches = request.app[INDEX].match_hashes(_model(asked.model, asked.model_name), hashes)
    return json_response(_answer(matches, asked.tenant_id, asked.instance_id))


async def register(request: web.Request) -> web.Response:
    """Follows the events of an engine, under the name `instance_id`; requests are not forwarded to it."""
    asked = decode(_registration, await read_body(request))
    name = str(asked.instance_id)
    try:
        (endpoint,) = parse_endpoints(asked.endpoint)
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
    registered = request.app[REGISTERED].setdefault(name, {})
    if asked.dp_rank in registered:
        raise ApiError(409, f"{name} (rank {asked.dp_rank}) is registered already", param="instance_id", code="exists")
    if any(report.address == endpoint.address for report in request.app[POOL].endpoints()):
        raise ApiError(409, f"{endpoint.address} is followed already", param="endpoint", code="exists")
    registered[asked.dp_rank] = endpoint
    request.app[POOL].follow(endpoint)
    return json_response(Registered("registered successfully", instance_id=name))


async def unregister(request: web.Request) -> web.Response:
    """Ends following an engine that was registered, or one of its ranks, and drops its blocks."""
    asked = decode(_unregistration, await read_body(request))
    name = str(asked.instance_id)
    registered = request.app[REGISTERED].get(name, {})
    ranks = [rank for rank in registered if asked.dp_rank in (None, rank)]
    if not ranks:
        raise ApiError(404, f"{name} is not registered", param="instance_id", code="pod_not_found")
    for rank in ranks:
        request.app[POOL].unfollow(registered.pop(rank))
    if not registered:
        request.app[REGISTERED].pop(name, None)
        request.app[POOL].forget(name)
    removed = [f"{name}|{asked.tenant_id}|{rank}" for rank in ranks]
    return json_response(Registered("unregistered successfully", removed_instances=removed))


def _model(*names: str | None) -> str:
    name = next(filter(None, names), None)
    if name is None:
        raise ApiError(400, "`model` is missing", param="model")
    return name


def _answer(matches: Iterable[RankMatch], tenant: str, instance: str | int | None) -> dict[str, Any]:
    """All counts are tokens. Those of a tier include the faster tiers, as in Dynamo."""
    scores: dict[str, dict[str, int]] = {}
    instances: dict[str, dict[str, Any]] = {}
    for match in matches:
        name, rank = match.rank.pod, str(match.rank.number)
        if instance is not None and name != str(instance):
            continue
        gpu = match.tokens_by_tier.get(Tier.GPU, 0)
        cpu = gpu + match.tokens_by_tier.get(Tier.CPU, 0)
        scores.setdefault(name, {})[rank] = gpu
        known = instances.setdefault(name, {"longest_matched": 0, "gpu": 0, "cpu": 0, "disk": 0, "dp": {}, "DP": {}})
        for key, tokens in (("longest_matched", match.tokens), ("gpu", gpu), ("cpu", cpu), ("disk", match.tokens)):
            known[key] = max(known[key], tokens)
        known["dp"][rank] = gpu
        known["DP"][rank] = match.tokens
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
