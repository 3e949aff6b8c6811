"""LoRA names: for which models ranks announced them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from service.index.base import NAMELESS_LORA


class LoraNames:
    """A model's name wins over a LoRA's equal name."""

    def __init__(self) -> None:
        self._loras: dict[str, dict[str, int]] = {}
        """LoRA name to models, with the number of ranks that announced it."""
        self._models: Counter[str] = Counter()
        """Ranks by model."""

    def add_rank(self, model: str) -> None:
        self._models[model] += 1

    def remove_rank(self, model: str, names: Iterable[str]) -> None:
        """Removes a rank and the LoRA names that it announced."""
        self._models[model] -= 1
        self._models += Counter()  # without those that have no rank left
        for name in names:
            models = self._loras[name]
            models[model] -= 1
            if not models[model]:
                del models[model]
            if not models:
                del self._loras[name]

    def has_model(self, model: str) -> bool:
        """Whether some rank is of this model."""
        return model in self._models

    def add(self, model: str, name: str) -> None:
        """Call it once per rank and name."""
        models = self._loras.setdefault(name, {})
        models[model] = models.get(model, 0) + 1

    def model(self, name: str) -> str | None:
        """As service.index.base.Index.lora_model."""
        models = self._loras.get(name)
        return next(iter(models), None) if models and name not in self._models else None

    def announced(self) -> dict[str, str]:
        """As service.index.base.Index.loras."""
        names = {name: next(iter(models)) for name, models in self._loras.items() if name not in self._models}
        return {name: model for name, model in names.items() if not name.startswith(NAMELESS_LORA)}
