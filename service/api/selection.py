"""POST /select and /reservations: the rank for a request of a client that takes it there itself."""

from __future__ import annotations

import msgspec
from aiohttp import web

from service.api.body import read_body
from service.api.candidates import candidates, left_out
from service.api.errors import ApiError
from service.api.forwarding import request_with_prompt
from service.api.requests import SelectOptions, decode
from service.api.resources import CHOICES, FLEET, LISTENERS, ROUTER
from service.api.responses import Reserved, Selection, json_response
from service.gateway.engine_request import RANK_FIELD, RANK_HEADER
from service.routing.choice import Choice
from service.routing.issued import TooManyReservations

_options = msgspec.json.Decoder(SelectOptions)


async def select(request: web.Request) -> web.Response:
    """Chooses the rank for a prompt or a chat, as the gateway does, and reserves it if `reserve` is true."""
    body = await read_body(request)
    options = decode(_options, body)
    question = (await request_with_prompt(request, body)).question
    if not len(request.app[FLEET]):
        raise ApiError(404, "there is no pod to select (PODS)", code="pod_not_found")
    fleet, router = request.app[FLEET], request.app[ROUTER]
    wanted = frozenset(options.pods) if options.pods is not None else None
    others = [pod for pod in fleet if wanted is not None and pod.name not in wanted]
    estimates = [one for one in router.estimates(question) if one.pod not in others]
    choice = router.choose(question, others)
    without = left_out(fleet, others, question.model)
    if choice is None:
        reasons = "; ".join(f"{one.pod}: {one.reason}" for one in without)
        raise ApiError(503, f"no pod can take the request ({reasons})", code="no_pod_available")
    if options.reserve:
        request.app[LISTENERS].routed(choice, question, is_select=True)
    is_sglang = choice.pod.is_sglang
    return json_response(
        Selection(
            pod=choice.pod.name,
            url=choice.pod.entry.url,
            rank=choice.rank,
            headers={} if is_sglang or not choice.names_rank else {RANK_HEADER: str(choice.rank)},
            body={RANK_FIELD: choice.rank} if is_sglang and choice.names_rank else {},
            tokens=question.tokens,
            predicted_tokens=choice.predicted,
            seconds=choice.seconds,
            reservation=_issued(request, choice, options),
            candidates=candidates(estimates),
            left_out=without,
        )
    )


async def note_first_token(request: web.Request) -> web.Response:
    """Moves a reserved request from prefill to decoding; the pod's speed is learned from it."""
    name = request.match_info["id"]
    elsewhere = request.app.get(CHOICES)
    is_known = request.app[ROUTER].issued.first_token(name)
    if not is_known and not (elsewhere and await elsewhere.first_token_elsewhere(name)):
        raise _unknown(name)
    return json_response(Reserved(name, active=True))


async def end_reservation(request: web.Request) -> web.Response:
    """Ends a reserved request; with `?answered=false` one that got no answer."""
    name = request.match_info["id"]
    is_computed = request.query.get("answered") != "false"
    elsewhere = request.app.get(CHOICES)
    is_known = request.app[ROUTER].issued.end(name, is_computed=is_computed)
    if not is_known and not (elsewhere and await elsewhere.end_elsewhere(name, is_computed=is_computed)):
        raise _unknown(name)
    return json_response(Reserved(name, active=False))


def _issued(request: web.Request, choice: Choice, options: SelectOptions) -> str | None:
    if not options.reserve:
        request.app[ROUTER].withdraw(choice)
        return None
    choice.reservation.tells_first_token = True
    try:
        return request.app[ROUTER].issued.issue(choice.reservation, options.seconds)
    except TooManyReservations as error:
        request.app[ROUTER].withdraw(choice)
        raise ApiError(429, str(error), code="too_many_reservations") from None


def _unknown(name: str) -> ApiError:
    message = f"there is no reservation {name!r}: it has ended or expired, or never was"
    return ApiError(404, message, param="id", code="reservation_not_found")
