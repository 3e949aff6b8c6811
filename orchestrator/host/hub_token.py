"""Finds the Hugging Face token of this user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def find_token(environment: Mapping[str, str]) -> str | None:
    """The token that huggingface_hub would use here (get_token): HF_TOKEN, else the file of HF_TOKEN_PATH or HF_HOME.

    With HF_HUB_DISABLE_IMPLICIT_TOKEN, the file is ignored.
    """
    if token := environment.get("HF_TOKEN", "").strip():
        return token
    if environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return None
    try:
        return _token_file(environment).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _token_file(environment: Mapping[str, str]) -> Path:
    if path := environment.get("HF_TOKEN_PATH"):
        return Path(path).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "token"
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "token"
