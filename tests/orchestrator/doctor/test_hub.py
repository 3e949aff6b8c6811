from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.doctor.finding import Severity
from orchestrator.doctor.hub import check_model, check_token
from orchestrator.launch import Launch
from tests.command import free_port

_TOKEN = "of-alice"  # noqa: S105 - so it says


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as the doctor asks."""

    def do_HEAD(self) -> None:
        status = {"/org/open/": 200, "/org/moved/": 307, "/org/gated/": 403, "/org/broken/": 500}
        self._answer(status.get(self.path.removesuffix("resolve/main/tokenizer_config.json"), 404), b"")

    def do_GET(self) -> None:
        known = self.path == "/api/whoami-v2" and self.headers["Authorization"] == f"Bearer {_TOKEN}"
        self._answer(200 if known else 401, b'{"name": "alice"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Launch(hf_endpoint=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("model", "verdict", "said"),
    [
        ("builtin/demo", Severity.OK, "is built in"),
        ("org/open", Severity.OK, "can be fetched"),
        ("org/moved", Severity.OK, "can be fetched"),
        ("org/gated", Severity.WARNING, "does not give org/gated (status 403)"),
        ("org/none", Severity.WARNING, "has no org/none"),
        ("org/broken", Severity.WARNING, "answers with status 500"),
    ],
)
def test_a_model_is_at_hand_or_the_hub_says_why_not(launch: Launch, model: str, verdict: Severity, said: str) -> None:
    finding = check_model(replace(launch, model=model))
    assert finding.severity is verdict
    assert said in finding.text
    assert bool(finding.remedy) == (verdict is not Severity.OK)


def test_a_hub_that_is_not_there_is_said_with_what_works_without() -> None:
    finding = check_model(Launch(model="org/open", hf_endpoint=f"http://127.0.0.1:{free_port()}"))
    assert finding.severity is Severity.WARNING
    assert "does not answer" in finding.text
    assert "--models-dir" in finding.remedy


def test_a_model_on_disk_needs_no_hub(tmp_path: Path) -> None:
    for folder in (tmp_path / "org" / "name", tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"):
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").touch()
    nowhere = f"http://127.0.0.1:{free_port()}"

    for place in (Launch(models_dir=tmp_path), Launch(hf_cache=tmp_path)):
        finding = check_model(replace(place, model="org/name", hf_endpoint=nowhere))
        assert (finding.severity, str(tmp_path) in finding.text) == (Severity.OK, True)


@pytest.mark.parametrize(
    ("token", "verdict", "said"),
    [
        (None, Severity.OK, "none is set"),
        (_TOKEN, Severity.OK, "is alice's"),
        ("of-nobody", Severity.WARNING, "does not accept it"),
    ],
)
def test_a_token_is_the_hubs_to_accept(launch: Launch, token: str | None, verdict: Severity, said: str) -> None:
    finding = check_token(replace(launch, token=token))
    assert finding.severity is verdict
    assert said in finding.text
