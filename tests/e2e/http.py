"""JSON over HTTP, as curl in the README would have it."""

from __future__ import annotations

from typing import Any

import requests


def get(url: str) -> str:
    answer = requests.get(url, timeout=10)
    answer.raise_for_status()
    return answer.text


def post(url: str, body: object) -> Any:
    answer = requests.post(url, json=body, timeout=10)
    answer.raise_for_status()
    return answer.json()
