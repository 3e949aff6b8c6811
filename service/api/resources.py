"""The resources that handlers find in the application; service/app.py starts and stops them."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry

from service.api.limits import RequestLimits
from service.api.requests import ChatBodyDecoder
from service.api.resolver import PromptResolver
from service.api.scorer import Scorer
from service.api.traffic import Traffic
from service.events.pool import EventPool
from service.fleet.registry import Registry
from service.gateway.gateway import Gateway
from service.index.base import Index
from service.prompts.models.catalog import Models
from service.readiness import Readiness

LIMITS = web.AppKey("limits", RequestLimits)
INDEX = web.AppKey("index", Index)
POOL = web.AppKey("pool", EventPool)
CHAT_DECODER = web.AppKey("chat_decoder", ChatBodyDecoder)
FLEET = web.AppKey("fleet", Registry)
GATEWAY = web.AppKey("gateway", Gateway)
MODELS = web.AppKey("models", Models)
RESOLVER = web.AppKey("resolver", PromptResolver)
SCORER = web.AppKey("scorer", Scorer)
READINESS = web.AppKey("readiness", Readiness)
TRAFFIC = web.AppKey("traffic", Traffic)
INSTANCE_ID = web.AppKey("instance_id", str)
REGISTRY = web.AppKey("registry", CollectorRegistry)
DOCUMENT = web.AppKey("document", bytes)
"""The OpenAPI document, as JSON."""
