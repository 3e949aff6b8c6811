from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import Problem
from orchestrator.host.state import claim, forget_service, make_service_folder, service_folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_a_service_has_a_folder_that_nobody_else_can_enter(home: Path) -> None:
    folder = make_service_folder("podman", "kv-test")
    assert folder == service_folder("podman", "kv-test") == home / "kvcache" / "podman" / "kv-test"
    assert folder.stat().st_mode & 0o777 == 0o700
    forget_service("podman", "kv-test")
    forget_service("podman", "kv-test")
    assert not folder.exists()


def test_a_name_is_started_by_one_at_a_time_and_the_claim_leaves_nothing(home: Path) -> None:
    with claim("podman", "kv-test"):
        with claim("docker", "kv-test"), claim("podman", "kv-other"):
            pass
        with (
            pytest.raises(Problem, match="Another `kvcache up` is starting a service named kv-test"),
            claim("podman", "kv-test"),
        ):
            pytest.fail("claimed twice")
    with claim("podman", "kv-test"):
        pass
    assert [path for path in home.rglob("*") if path.is_file()] == []
