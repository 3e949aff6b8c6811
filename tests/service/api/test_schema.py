"""Requests generated from /openapi.json: none gives 500, and every answer is as the document says."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.service.conftest import Serve, url_of
from tests.tries import tries

if not os.environ.get("CI"):
    pytest.importorskip("schemathesis", reason="comes with requirements-dev.lock")

_SECONDS = tries(8, 45)

# Whether a chat can be rendered and a text be tokenized depends on the model, which no schema describes.
_CONFIGURATION = """
[checks]
positive_data_acceptance.expected-statuses = [200, 400, 401, 403, 404, 409, 429, 503]
"""


@pytest.mark.timeout(600)
async def test_no_generated_request_gives_500_or_an_answer_that_the_document_does_not_describe(
    serve: Serve, tmp_path: Path
) -> None:
    client = await serve()
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(_CONFIGURATION)
    generator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
        *("run", f"{url_of(client)}/openapi.json", "--checks", "all", "--phases", "coverage,fuzzing"),
        *("--exclude-operation-id", "add_pod"),  # the service would look up and call made-up hosts
        *("--exclude-operation-id", "register"),
        *("--exclude-operation-id", "requests"),  # its answer has no end
        # Every path under /v1/ also takes what the pods take, which the document says of /v1/{path} alone.
        *("--exclude-checks", "allow_header_conformance,unsupported_method"),
        *("--suppress-health-check", "filter_too_much"),  # of how requests are generated, not of the answers
        *("--max-time", str(_SECONDS), "--seed", "1", "--no-color", "--generation-deterministic"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    told, _ = await generator.communicate()
    assert generator.returncode == 0, told.decode()[-6000:]
