"""Converts docker-py's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from docker.errors import APIError, DockerException

from orchestrator.errors import Problem, RuntimeUnavailable, cause_of


@contextmanager
def docker_errors(doing: str) -> Iterator[None]:
    """Converts docker-py's exceptions to Problem."""
    try:
        yield
    except APIError as error:
        said = error.explanation or str(error)
        raise Problem(
            f"Docker could not {doing}: {said}", "Run `kvcache doctor`, which looks for the cause."
        ) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise RuntimeUnavailable(
            f"Docker did not answer when asked to {doing}: {cause_of(error)}",
            "Run `docker info`, which should show the cause; or choose another runtime with --runtime.",
        ) from error
