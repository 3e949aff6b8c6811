"""The destination and the outcome of a request: the fields that the page, the access log and traces share."""

from __future__ import annotations

import msgspec

from service.routing.choice import Choice


class RequestOutcome(msgspec.Struct, kw_only=True):
    """A field is None if it is not known, or not yet."""

    model: str | None = None
    pod: str | None = None
    """None if no pod could take it."""
    rank: int | None = None
    predicted_tokens: int | None = None
    """Tokens that the engine is predicted to reuse."""
    predicted_from: str | None = None
    cached_tokens: int | None = None
    """Tokens that the engine reported as reused."""
    first_token_seconds: float | None = None

    def note_choice(self, choice: Choice, *, is_predicted: bool) -> None:
        """Notes where it goes, and what is predicted there if the prompt is known."""
        self.pod, self.rank = choice.pod.name, choice.rank
        if is_predicted:
            self.predicted_tokens, self.predicted_from = choice.predicted, choice.basis
