from __future__ import annotations

import pytest
from podman.errors import APIError, NotFound

from orchestrator.runtimes.podman_api import is_gone

# What Podman 4.3 answers with status 500 about a container that is removed at this moment.
_REMOVED_MEANWHILE = "container 29f28cb6 does not exist in database: no such container"


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (NotFound("no such container", explanation='no container with name or ID "x" found'), True),
        (APIError("no such container", explanation=_REMOVED_MEANWHILE), True),
        (APIError("internal libpod error", explanation="the storage is locked"), False),
        (APIError("internal libpod error"), False),
    ],
)
def test_a_container_that_is_removed_while_podman_looks_at_it_is_gone(error: APIError, gone: bool) -> None:
    assert is_gone(error) is gone
