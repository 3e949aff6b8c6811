"""What can be wrong with a prompt or with a model, as values that a caller can show."""

from __future__ import annotations


class PromptError(Exception):
    """The request cannot become a prompt. `param` names the field that is at fault, or is None."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ModelNotFound(Exception):
    """No model of that name exists anywhere that we look."""

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__(f"Model {name!r} was not found" + (f": {reason}" if reason else ""))
        self.name = name
        self.reason = reason


class ModelUnavailable(Exception):
    """The model may exist, but its files cannot be had or read at this time."""

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"Model {name!r} is not available: {reason}. {remedy}")
        self.name = name
        self.reason = reason
        self.remedy = remedy


class HubUnreachable(ModelUnavailable):
    """The hub does not answer, or asks for fewer requests, whichever model it is asked for."""

    def for_model(self, name: str) -> HubUnreachable:
        """The same, for one who asks for another model."""
        return HubUnreachable(name, self.reason, self.remedy.replace(self.name, name))
