"""The forms in which a launch can be printed."""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    COMPOSE = "compose"
    QUADLET = "quadlet"
    KUBERNETES = "kubernetes"
