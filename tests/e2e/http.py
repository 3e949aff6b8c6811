"""JSON over HTTP, as curl in the README would have it."""

from __future__ import annotations

from typing import Any

import requests

from tests.waiting import PATIENCE


def get(url: str) -> str:
    answer = requests.get(url, timeout=PATIENCE)
    answer.raise_for_status()
    return answer.text


def post(url: str, body: object) -> Any:
    answer = requests.post(url, json=body, timeout=PATIENCE)
    answer.raise_for_status()
    return answer.json()
