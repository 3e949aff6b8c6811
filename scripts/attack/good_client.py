"""A well-behaved client in its own process: requests /health and scores in turn, and measures the latencies.

python -m scripts.attack.good_client PORT     until standard input ends; then prints one line of JSON
"""

from __future__ import annotations

import http.client
import json
import select
import sys
from dataclasses import asdict, dataclass
from time import perf_counter

_PROMPT = json.dumps({"prompt": list(range(2000))})
_TIMEOUT = 120.0


@dataclass
class Experience:
    """Measurements of one good client; times in seconds."""

    health_seconds: float = 0.0
    score_seconds: float = 0.0
    answered: int = 0
    rejected: int = 0
    rejected_seconds: float = 0.0
    """The longest time without a score."""


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: str | None) -> int:
    """Returns the status; 0 if the service did not answer."""
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0
    return response.status


def observe(port: int) -> Experience:
    """Sends requests until standard input ends, and prints when it begins. Uses another address than the attacker."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT, source_address=("127.0.0.2", 0))
    seen = Experience()
    last_score = perf_counter()
    print(ask(connection, "GET", "/health", None), flush=True)
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        started = perf_counter()
        ask(connection, "GET", "/health", None)
        healthy = perf_counter()
        status = ask(connection, "POST", "/score", _PROMPT)
        ended = perf_counter()
        seen.health_seconds = max(seen.health_seconds, healthy - started)
        seen.score_seconds = max(seen.score_seconds, ended - healthy)
        if status == 200:
            seen.answered += 1
            seen.rejected_seconds = max(seen.rejected_seconds, ended - last_score)
            last_score = ended
        else:
            seen.rejected += 1
    seen.rejected_seconds = max(seen.rejected_seconds, perf_counter() - last_score)
    return seen


if __name__ == "__main__":
    print(json.dumps(asdict(observe(int(sys.argv[1])))))
