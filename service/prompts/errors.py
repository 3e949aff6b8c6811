"""Errors of prompts and models, with the fields that a caller reports."""

from __future__ import annotations

from pathlib import Path


class PromptError(Exception):
    """The request cannot become a prompt. `param` names the field at fault, if any."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class PromptTooLong(PromptError):
    """The prompt has more characters than MAX_PROMPT_CHARACTERS; `characters` is None if their number is not known."""

    def __init__(self, limit: int, param: str, characters: int | None = None) -> None:
        number = f"more than {limit}" if characters is None else characters
        super().__init__(f"the prompt has {number} characters, the limit is {limit} (MAX_PROMPT_CHARACTERS)", param)


class BadModelFile(Exception):
    """A file of the model cannot be read; the text names the file and the reason."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path
        self.reason = reason


class ModelNotFound(Exception):
    """No model of that name exists, or requests may not name it."""

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__(f"Model {name!r} was not found" + (f": {reason}" if reason else ""))
        self.name = name
        self.reason = reason


class ModelUnavailable(Exception):
    """The model may exist, but its files cannot be fetched or read now."""

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"Model {name!r} is not available: {reason}. {remedy}")
        self.name = name
        self.reason = reason
        self.remedy = remedy


class HubUnreachable(ModelUnavailable):
    """The hub is unreachable or rate-limits us, for any model."""

    def for_model(self, name: str) -> HubUnreachable:
        """The same error for a request of another model."""
        return HubUnreachable(name, self.reason, self.remedy.replace(self.name, name))
