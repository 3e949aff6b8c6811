"""Reads the JSON output of a build, which is nearly the same for Docker and Podman."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import BuildFailed

# "returned a non-zero code: 7" (Docker), "exit status 7" (Podman).
_EXIT_CODE = re.compile(r"(?:non-zero code:|exit status|exit code:?) (\d+)")


def output_lines(message: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one message of a build's output. Raises BuildFailed for an error."""
    if error := message.get("error"):
        codes = _EXIT_CODE.findall(error)
        raise BuildFailed(
            f"The image does not build: {error.strip()}",
            "Its last lines are above; --runtime process needs no image.",
            exit_code=int(codes[-1]) if codes else None,
        )
    yield from message.get("stream", "").splitlines()
