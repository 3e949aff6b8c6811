from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.host.models_folder import objections, parts


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def _said(folder: Path) -> str:
    return " ".join(objection.what for objection in objections(folder))


def _places(folder: Path) -> dict[str, Path]:
    return {str(part.place): part.source for part in parts(folder)}


def _hub_cache(folder: Path) -> Path:
    """A model as the hub's cache holds it: its files are links to blobs. Returns the folder of its snapshot."""
    blobs, snapshot = folder / "models--a--b" / "blobs", folder / "models--a--b" / "snapshots" / "abc"
    (snapshot / "additional_chat_templates").mkdir(parents=True)
    blobs.mkdir()
    for name in ("tokenizer.json", "config.json", "additional_chat_templates/tools.jinja"):
        blob = blobs / str(len(name))
        blob.write_text("{}")
        link = snapshot / name
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_folder_with_models_has_no_objections(tmp_path: Path) -> None:
    _model(tmp_path / "org" / "name")
    (tmp_path / "org" / "name" / "link.json").symlink_to("tokenizer.json")
    assert _said(tmp_path) == ""


def test_a_folder_whose_links_stay_inside_is_mounted_as_a_whole(tmp_path: Path) -> None:
    _model(tmp_path / "org" / "name")
    (tmp_path / "org" / "alias").symlink_to("../org/name")
    (tmp_path / "org" / "nothing").symlink_to("/no/such/folder")
    assert _places(tmp_path) == {".": tmp_path}


def test_a_model_in_the_layout_of_the_hubs_cache_is_mounted_file_by_file(tmp_path: Path) -> None:
    snapshot = _hub_cache(tmp_path / "hub")
    models = tmp_path / "models"
    _model(models / "plain" / "name")
    (models / "a").mkdir()
    (models / "a" / "b").symlink_to(snapshot)
    (models / "datasets").symlink_to(tmp_path)  # holds no models, and is left out

    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    assert _places(models) == {
        "a/b/additional_chat_templates/tools.jinja": blobs / "37",
        "a/b/config.json": blobs / "11",
        "a/b/tokenizer.json": blobs / "14",
        "plain": models / "plain",
    }


@pytest.mark.parametrize("link", ["org", "org/name"])
def test_a_linked_folder_without_links_of_its_own_is_mounted_where_it_is_linked(tmp_path: Path, link: str) -> None:
    outside = _model(tmp_path / "disk" / link.replace("/", "-") / "name")
    models = tmp_path / "models"
    (models / link).parent.mkdir(parents=True)
    (models / link).symlink_to(outside if "/" in link else outside.parent)
    assert _places(models) == {link: (models / link).resolve()}


def test_an_absolute_link_leads_out_even_if_its_target_is_inside(tmp_path: Path) -> None:
    inside = _model(tmp_path / "org" / "name")
    (tmp_path / "org" / "alias").symlink_to(inside)
    assert _places(tmp_path) == {"org/alias": inside, "org/name": inside}


def test_links_that_lead_to_nothing_or_in_a_circle_are_named_and_not_mounted(tmp_path: Path) -> None:
    outside = _model(tmp_path / "disk" / "other")
    models = tmp_path / "models"
    model = _model(models / "org" / "name")
    (model / "gone.json").symlink_to("/no/such/file")
    (model / "circle.json").symlink_to("circle.json")
    (models / "org" / "other").symlink_to(outside)
    (model / "linked.json").symlink_to(outside / "tokenizer.json")

    assert "lead to nothing: org/name/circle.json -> circle.json, org/name/gone.json -> /no/such/file." in _said(models)
    assert _places(models).keys() == {"org/name/linked.json", "org/name/tokenizer.json", "org/other"}


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
