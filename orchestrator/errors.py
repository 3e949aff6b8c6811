"""Errors of the host half. Each names a cause and a remedy."""

from __future__ import annotations


class Problem(Exception):
    """A command cannot go on. `what` happened, with the offending value; `remedy` says what to do; `details` are lines
    of somebody else's output (a build, a service's log) that show why."""

    def __init__(self, what: str, remedy: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.details = details


class UsageError(Problem):
    """The command line itself is wrong."""


class RuntimeUnavailable(Problem):
    """A container runtime is not there or does not answer; `installed` tells these two apart."""

    def __init__(self, what: str, remedy: str, *, installed: bool = True) -> None:
        super().__init__(what, remedy)
        self.installed = installed


class BuildFailed(Problem):
    """A runtime could not build the image; `exit_code` is the failed step's, if known."""

    def __init__(self, what: str, remedy: str, details: tuple[str, ...] = (), exit_code: int | None = None) -> None:
        super().__init__(what, remedy, details)
        self.exit_code = exit_code


class ToolFailed(Problem):
    """A tool of the service ended with another exit code than 0; `details` are the last lines of its errors."""

    def __init__(self, tool: str, exit_code: int, details: tuple[str, ...]) -> None:
        super().__init__(
            f"`python -m service {tool}` ended with code {exit_code}.", "Its last lines are above.", details
        )
        self.exit_code = exit_code


def cause_of(error: BaseException) -> str:
    """The innermost reason of an SDK's error, the only one that a user can act on."""
    # An error that was merely being handled meanwhile is another matter, and is marked so by `raise … from None`.
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return str(error)
