"""A worker that answers each job with the job."""

from __future__ import annotations

from service.prompts.workers.serving import serve


def main() -> None:
    serve(bytes)
