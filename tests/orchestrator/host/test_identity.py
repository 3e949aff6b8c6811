from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import Problem
from orchestrator.host.identity import UNPRIVILEGED_UID, Identity, identity, reader_of, refuse_unreadable

_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="folders can be given away by root only")


def test_without_a_folder_it_is_the_images_plain_user() -> None:
    assert identity(keeps_id=False, rootless=False, hf_cache=None) == Identity(f"{UNPRIVILEGED_UID}:{UNPRIVILEGED_UID}")


def test_a_rootless_runtime_makes_it_the_caller(tmp_path: Path) -> None:
    assert identity(keeps_id=True, rootless=True, hf_cache=tmp_path).as_caller
    assert identity(keeps_id=False, rootless=True, hf_cache=tmp_path) == Identity("0:0")


def test_a_rootful_runtime_runs_it_as_an_ordinary_caller(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert identity(keeps_id=False, rootless=False, hf_cache=folder, caller=1234).user == f"1234:{os.getegid()}"
    assert folder.is_dir()


@_AS_ROOT
def test_roots_empty_folder_is_given_to_the_plain_user(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert identity(keeps_id=False, rootless=False, hf_cache=folder, caller=0) == Identity()
    assert folder.stat().st_uid == UNPRIVILEGED_UID


@_AS_ROOT
def test_roots_full_folder_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Problem) as raised:
        identity(keeps_id=False, rootless=False, hf_cache=tmp_path, caller=0)
    assert raised.value.remedy.startswith(f"Give it away: chown -R {UNPRIVILEGED_UID}:{UNPRIVILEGED_UID} {tmp_path}")


@_AS_ROOT
def test_a_folder_that_root_gave_to_somebody_is_used_as_that_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 5678)
    assert identity(keeps_id=False, rootless=False, hf_cache=tmp_path, caller=0).user == "1234:5678"


def test_models_that_nobody_else_may_read_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    refuse_unreadable(tmp_path)
    tmp_path.chmod(0o700)
    with pytest.raises(Problem, match="closed to other users"):
        refuse_unreadable(tmp_path)


def test_a_file_that_everybody_may_read_needs_no_other_user(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.touch(0o644)
    tmp_path.chmod(0o711)
    assert reader_of([file], rootless=False, keeps_id=True) == Identity()


def test_a_closed_file_is_read_by_its_owner_or_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.touch(0o600)
    tmp_path.chmod(0o711)
    assert reader_of([file], rootless=True, keeps_id=True).as_caller
    assert reader_of([file], rootless=True, keeps_id=False) == Identity("0:0")
    assert reader_of([file], rootless=False, keeps_id=True, caller=1234).user == f"1234:{os.getegid()}"
    with pytest.raises(Problem) as raised:
        reader_of([file], rootless=False, keeps_id=True, caller=0)
    assert raised.value.remedy == f"Give it to that user: chown {UNPRIVILEGED_UID} {file}"


@_AS_ROOT
def test_a_file_of_the_plain_user_is_read_by_it(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.touch(0o400)
    os.chown(file, UNPRIVILEGED_UID, 0)
    tmp_path.chmod(0o711)
    assert reader_of([file], rootless=False, keeps_id=True, caller=0) == Identity()


@_AS_ROOT
def test_two_folders_must_belong_to_one_user_and_empty_ones_of_root_are_given_to_it(tmp_path: Path) -> None:
    cache, state, other = (tmp_path / name for name in ("cache", "state", "other"))
    for folder, uid in ((cache, 1234), (other, 4321)):
        folder.mkdir()
        os.chown(folder, uid, uid)
    assert identity(keeps_id=False, rootless=False, hf_cache=cache, state_dir=state, caller=0).user == "1234:1234"
    assert state.stat().st_uid == 1234
    with pytest.raises(Problem, match="belong to different users"):
        identity(keeps_id=False, rootless=False, hf_cache=cache, state_dir=other, caller=0)
