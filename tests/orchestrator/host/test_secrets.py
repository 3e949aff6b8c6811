from __future__ import annotations

from pathlib import Path

from orchestrator.host.secrets import write_secret


def test_a_secret_can_be_read_by_the_users_who_are_given_its_file_and_be_written_again(tmp_path: Path) -> None:
    write_secret(tmp_path, "token", "first")
    path = write_secret(tmp_path, "token", "second")
    assert path == tmp_path / "token"
    assert path.read_text() == "second"
    assert path.stat().st_mode & 0o777 == 0o444
