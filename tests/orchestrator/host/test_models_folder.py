from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.host.models_folder import objections


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def _said(folder: Path, *, mounted: bool = True) -> str:
    return " ".join(objection.what for objection in objections(folder, mounted=mounted))


def test_a_folder_with_models_has_no_objections(tmp_path: Path) -> None:
    _model(tmp_path / "org" / "name")
    (tmp_path / "org" / "name" / "link.json").symlink_to("tokenizer.json")
    assert _said(tmp_path) == ""


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_links_that_lead_out_of_a_mounted_folder_are_named(tmp_path: Path, linked: str) -> None:
    outside = _model(tmp_path / "cache" / "blobs")
    models = tmp_path / "models"
    (models / "org").mkdir(parents=True)
    if linked == "folder":
        (models / "org" / "name").symlink_to(outside)
    else:
        (models / "org" / "name").mkdir()
        (models / "org" / "name" / "tokenizer.json").symlink_to(outside / "tokenizer.json")

    assert "org/name" in _said(models)
    assert "link to files outside of it" in _said(models)
    assert _said(models, mounted=False) == ""


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (".", "holds the files of one model"),
        ("name", "have no organization"),
        ("models--org--name/snapshots/abc", "is a cache of the hub"),
        ("hub/models--org--name/snapshots/abc", "is a cache of the hub"),
        ("a/b/c/d", "holds no model"),
    ],
)
def test_a_wrong_layout_is_named(tmp_path: Path, place: str, said: str) -> None:
    _model(tmp_path / "models" / place)
    assert said in _said(tmp_path / "models")
