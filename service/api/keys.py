"""Checks API keys: `Authorization: Bearer KEY` as OpenAI's clients send it, or `x-api-key` as Anthropic's do."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from hmac import compare_digest
from pathlib import Path
from time import monotonic

from service.api.errors import ApiError
from service.api.key_rates import KeyRates
from service.contract.api_keys import ApiKey, digest_of, parse_api_keys

logger = logging.getLogger(__name__)


class KeyRing:
    """The keys of the settings and of a file, which is reloaded when it changes."""

    def __init__(
        self, keys: Sequence[ApiKey], file: Path | None, recheck_seconds: float = 1.0, rates: KeyRates | None = None
    ) -> None:
        """Raises ValueError or OSError for an unusable file. Without keys and file, everything is allowed."""
        self._fixed = tuple(keys)
        self._file = file
        self._recheck_seconds = recheck_seconds
        self._rates = rates or KeyRates({})
        self._modified = (0, 0, 0)
        self._checked_at = monotonic()
        self._of_file: tuple[ApiKey, ...] = ()
        self._problem: str | None = None
        """The error of the file that was logged last."""
        if file is not None:
            self._read(file)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._fixed and self._file is None

    def check(self, headers: Mapping[str, str], permissions: Collection[str]) -> str:
        """The name of the key.

        Raises ApiError 401 for a missing or unknown key, 403 for one with none of the permissions, 429 above its rate.
        """
        name = self._key(headers, permissions).name
        self._rates.take(name)
        return name

    def would_admit(self, headers: Mapping[str, str], permissions: Collection[str]) -> str | None:
        """The name of the key with which `check` would raise no error; None if it would."""
        try:
            name = self._key(headers, permissions).name
        except ApiError:
            return None
        return name if self._rates.would_take(name) else None

    def count(self, name: str) -> None:
        """Counts a request with a key that `would_admit` gave."""
        self._rates.take(name)

    def _key(self, headers: Mapping[str, str], permissions: Collection[str]) -> ApiKey:
        self._reread()
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            given = headers.get("x-api-key", "")
        if not given:
            raise _unauthorized("an API key is needed: send `Authorization: Bearer KEY`")
        digest, found = digest_of(given.strip()), None
        for key in (*self._fixed, *self._of_file):  # compares every key: constant time
            if compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise _unauthorized("the API key is unknown")
        if found.permissions.isdisjoint(permissions):
            message = f"the API key {found.name!r} does not have the permission {' or '.join(permissions)}"
            raise ApiError(403, message, code="insufficient_permissions")
        return found

    def _reread(self) -> None:
        if self._file is None or monotonic() - self._checked_at < self._recheck_seconds:
            return
        self._checked_at = monotonic()
        try:
            self._read(self._file)
        except (OSError, ValueError) as error:
            if str(error) != self._problem:
                logger.error("%s is not used, the former keys stay: %s", self._file, error)  # noqa: TRY400
            self._problem = str(error)

    def _read(self, file: Path) -> None:
        status = file.stat()
        modified = (status.st_mtime_ns, status.st_size, status.st_ino)
        if modified != self._modified:
            text = file.read_text(encoding="utf-8")
            self._modified = modified
            self._of_file = parse_api_keys(text)
            self._problem = None
            logger.info("%d API keys are in %s", len(self._of_file), file)


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
