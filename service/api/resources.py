"""The resources of handlers in the application; service/app.py starts and stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from aiohttp import web

from service.api.admission import Admission, Reservation
from service.api.limits import RequestLimits
from service.api.pod_states import PodStates
from service.api.requests import ChatBodyDecoder
from service.api.resolver import PromptResolver
from service.api.traffic import Traffic
from service.events.pool import EventPool
from service.fleet.discovery.discovery import Discovery
from service.fleet.registry import Registry
from service.gateway.gateway import Gateway
from service.index.base import Index
from service.index.scoring import Scorer
from service.prompts.models.catalog import Models
from service.readiness import Readiness
from service.replicas.bootstrap import Bootstrap
from service.replicas.choices import SharedChoices
from service.replicas.pods import SharedPods
from service.replicas.publishers import Publishers
from service.replicas.shared.state import SharedState
from service.replicas.snapshots import Snapshots
from service.routing.accuracy import Accuracy
from service.routing.affinity import SessionKeys
from service.routing.choice import Router
from service.routing.request_listeners import RequestListeners
from service.workers.siblings import Siblings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LIMITS = web.AppKey("limits", RequestLimits)
INDEX = web.AppKey("index", Index)
POOL = web.AppKey("pool", EventPool)
CHAT_DECODER = web.AppKey("chat_decoder", ChatBodyDecoder)
DISCOVERY = web.AppKey("discovery", Discovery)
FLEET = web.AppKey("fleet", Registry)
POD_STATES = web.AppKey("pod_states", PodStates)
LISTENERS = web.AppKey("listeners", RequestListeners)
ROUTER = web.AppKey("router", Router)
CHOICES = web.AppKey("choices", SharedChoices)
"""There with SHARED_STATE: replicas on other machines."""
PUBLISHERS = web.AppKey("publishers", Publishers)
SHARED_PODS = web.AppKey("shared_pods", SharedPods)
ASKS_USAGE = web.AppKey("asks_usage", bool)
SHARED = web.AppKey("shared", SharedState)
SESSION_KEYS = web.AppKey("session_keys", SessionKeys)
ACCURACY = web.AppKey("accuracy", Accuracy)
SNAPSHOTS = web.AppKey("snapshots", Snapshots)
BOOTSTRAP = web.AppKey("bootstrap", Bootstrap)
GATEWAY = web.AppKey("gateway", Gateway)
MODELS = web.AppKey("models", Models)
RESOLVER = web.AppKey("resolver", PromptResolver)
SCORER = web.AppKey("scorer", Scorer)
SEND_TOKEN_IDS = web.AppKey("send_token_ids", bool)
READINESS = web.AppKey("readiness", Readiness)
SIBLINGS = web.AppKey("siblings", Siblings)
"""The other workers of this machine; not there in a process that is alone."""
TRAFFIC = web.AppKey("traffic", Traffic)
INSTANCE_ID = web.AppKey("instance_id", str)
REGISTRY: web.AppKey[Callable[[], CollectorRegistry]] = web.AppKey("registry")
"""Makes the metrics when they are first asked for; to be called in a thread."""
DOCUMENT: web.AppKey[Callable[[], bytes]] = web.AppKey("document")
"""Makes the OpenAPI document, as JSON, when it is first asked for; to be called in a thread."""
ADMISSION = web.AppKey("admission", Admission)
TURNS = web.AppKey("turns", asyncio.Lock)
"""Held while a large body is processed: the event loop gets a turn between two large bodies."""

_RESERVATION = web.RequestKey("reservation", Reservation)


def reservation_of(request: web.BaseRequest) -> Reservation:
    return request[_RESERVATION]


def set_reservation(request: web.BaseRequest, reservation: Reservation) -> None:
    """Gives a request its reservation; the connection releases it when the response is sent."""
    request[_RESERVATION] = reservation


def waiting_for_client(request: web.BaseRequest, drop: Callable[[], None]) -> AbstractContextManager[None]:
    """Marks the request as waiting for its client, if it has a reservation; `drop` is called to make room."""
    reservation = request.get(_RESERVATION)
    return nullcontext() if reservation is None else reservation.waiting_for_client(drop)


def release_reservation(request: web.BaseRequest) -> None:
    try:
        reservation = request[_RESERVATION]
    except KeyError:  # a request that needs none
        return
    reservation.release()
