"""Finds Podman's API, and converts podman-py's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import podman
import requests
from podman.errors import APIError, NotFound, PodmanError

from orchestrator.errors import Problem, RuntimeUnavailable, cause_of

_ANSWER_SECONDS = 3.0


@dataclass(frozen=True)
class PodmanApi:
    """An address of Podman's API; None for podman-py's own default, which includes a `podman machine`.

    Never podman-py's `from_env`, which would treat DOCKER_HOST as Podman's address.
    """

    url: str | None

    def client(self, timeout: float | None = None) -> Any:
        named = {"base_url": self.url} if self.url else {}
        return podman.PodmanClient(timeout=timeout, **named)

    def __str__(self) -> str:
        return str(self.client().api.base_url.geturl())

    @property
    def local(self) -> bool:
        return str(self).startswith(("unix://", "http+unix://"))

    def check(self) -> None:
        """Raises podman-py's exceptions or OSError if no Podman answers there."""
        path = Path(unquote(urlsplit(str(self)).netloc or urlsplit(str(self)).path))
        if self.local and not path.exists():
            raise FileNotFoundError(f"there is no socket {path}")
        with self.client(_ANSWER_SECONDS) as client:
            if not client.ping():
                raise ConnectionError(f"{self} is not Podman's API")


def is_gone(error: APIError) -> bool:
    """Whether there is no such container, also if it was removed while Podman looked at it, which gives status 500."""
    return isinstance(error, NotFound) or "no such container" in str(error.explanation)


@contextmanager
def podman_errors(doing: str) -> Iterator[None]:
    """Converts podman-py's exceptions to Problem."""
    try:
        yield
    except (APIError, PodmanError, requests.RequestException, OSError, KeyError, ValueError) as error:
        # podman-py also raises APIError when it received no answer.
        if isinstance(error, APIError) and error.response is not None:
            raise Problem(
                f"Podman could not {doing}: {error.explanation or error}",
                "Run `kvcache doctor`, which looks for the cause.",
            ) from error
        raise RuntimeUnavailable(
            f"Podman did not answer when asked to {doing}: {cause_of(error)}", _remedy(error)
        ) from error


def _remedy(error: Exception) -> str:
    if "Permission denied" in cause_of(error):
        return (
            "Use a socket of this user: systemctl --user start podman.socket; or unset CONTAINER_HOST, and an API is "
            "started for the command."
        )
    return "Run `podman info`, which should show the cause; or choose another runtime with --runtime."
