"""Which models requests may name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from service.prompts.errors import ModelNotFound
from service.prompts.models.names import is_hub_name
from service.prompts.options import ANY_MODEL

BUILTIN_PREFIX: Final = "builtin/"
_NOT_ALLOWED: Final = (
    "requests may name the models of MODEL_NAME and MODELS, those in MODELS_DIR and those that pods serve; "
    "MODELS=* allows any"
)


class AllowedModels:
    """The operator's models: those of MODEL_NAME and MODELS, the built-in ones, those in MODELS_DIR, and the pods'."""

    def __init__(self, named: Collection[str], is_there: Callable[[str], bool]) -> None:
        """`named` are MODEL_NAME and MODELS; `is_there` tells whether MODELS_DIR or a pod has a model of a name."""
        self._named = named
        self._is_there = is_there

    def is_operators(self, name: str) -> bool:
        """Whether a model is one of the operator's, which are trusted and are not evicted by others."""
        return name in self._named or name.startswith(BUILTIN_PREFIX) or self._is_there(name)

    def check(self, name: str) -> bool:
        """Whether a model is one of the operator's; raises ModelNotFound if requests may not name it."""
        if self.is_operators(name):
            return True
        if not is_hub_name(name):
            raise ModelNotFound(name, "a model's name is NAME or ORGANISATION/NAME")
        if ANY_MODEL not in self._named:
            raise ModelNotFound(name, _NOT_ALLOWED)
        return False
