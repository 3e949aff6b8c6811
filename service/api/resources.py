"""What the handlers find in the application: started and stopped by service/app.py."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from service.api.chat_bodies import ChatBodies
from service.api.traffic import Traffic
from service.contract.settings import Settings
from service.events.pool import EventPool
from service.index.base import Index
from service.prompts.models.catalog import Models
from service.readiness import Readiness

SETTINGS = web.AppKey("settings", Settings)
INDEX = web.AppKey("index", Index)
POOL = web.AppKey("pool", EventPool)
CHAT_BODIES = web.AppKey("chat_bodies", ChatBodies[Any])
MODELS = web.AppKey("models", Models)
READINESS = web.AppKey("readiness", Readiness)
TRAFFIC = web.AppKey("traffic", Traffic)
REGISTRY = web.AppKey("registry", CollectorRegistry)
DOCUMENT = web.AppKey("document", bytes)
"""The OpenAPI document, as JSON."""
