from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import Problem
from orchestrator.host.state import (
    claim,
    claim_build,
    claim_ports,
    fallback_state_home,
    forget_service,
    make_service_folder,
    remove_stale_locks,
    service_folder,
    state_home,
)


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


def test_a_port_is_taken_by_one_start_at_a_time_whatever_its_name(home: Path) -> None:
    def another(port: int) -> int:
        return port + 1

    with claim_ports([8080, 5557], another):
        with claim_ports([8081], another):
            pass
        with (
            pytest.raises(Problem, match="is starting a service on port 5557") as raised,
            claim_ports([5557], another),
        ):
            pytest.fail("claimed twice")
    assert "--port 5558" in raised.value.remedy
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_what_a_build_leaves_is_swept_only_while_no_other_build_runs(home: Path) -> None:
    with claim_build() as first_is_alone:
        with claim_build() as second_is_alone:
            assert not second_is_alone()
        assert first_is_alone()
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_locks_of_processes_that_were_killed_are_removed_and_others_are_kept(home: Path) -> None:
    stale = home / "kvcache" / "podman" / "kv-killed.lock"
    stale.parent.mkdir(parents=True)
    stale.touch()
    with claim("podman", "kv-test"):
        remove_stale_locks()
        assert (home / "kvcache" / "podman" / "kv-test.lock").exists()
    assert not stale.exists()


def test_where_the_state_folder_cannot_be_written_the_runtime_folder_is_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fallback_state_home() is None
    file = home / "file"
    file.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(file))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    assert state_home() == fallback_state_home() == home / "run" / "kvcache"
    make_service_folder("podman", "kv-test")

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(file))
    assert state_home().parent != home
