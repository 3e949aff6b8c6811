"""Errors of the host half. Each names a cause and a remedy."""

from __future__ import annotations


class Problem(Exception):
    """A command cannot continue. `what` is the problem with the offending value; `remedy` is the action to take;
    `details` are output lines of another program (a build, a service's log) that show the reason.
    """

    def __init__(self, what: str, remedy: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.details = details


class UsageError(Problem):
    """The command line itself is wrong."""


class RuntimeUnavailable(Problem):
    """A container runtime is not installed or does not answer; `installed` distinguishes the two."""

    def __init__(self, what: str, remedy: str, *, installed: bool = True) -> None:
        super().__init__(what, remedy)
        self.installed = installed


class BuildFailed(Problem):
    """A runtime could not build the image; `exit_code` is the failed step's exit code, if known."""

    def __init__(self, what: str, remedy: str, details: tuple[str, ...] = (), exit_code: int | None = None) -> None:
        super().__init__(what, remedy, details)
        self.exit_code = exit_code


class ToolFailed(Problem):
    """A tool of the service exited with a code other than 0; `details` are the last lines of its standard error."""

    def __init__(self, tool: str, exit_code: int, details: tuple[str, ...]) -> None:
        super().__init__(
            f"`python -m service {tool}` ended with code {exit_code}.",
            "Its last lines are above." if details else f"See what it says: python -m service {tool}",
            details,
        )
        self.exit_code = exit_code
        self.reason = details[-1].removeprefix(f"{tool}: ") if details else self.what
        """Its last line, which is the reason where no other line can be shown."""


def cause_of(error: BaseException) -> str:
    """The innermost cause of an SDK's error, the only one that a user can act on."""
    # `raise … from None` marks an error that is unrelated to the one being handled.
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return str(error)
