from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from orchestrator.host.ownership import Owner
from orchestrator.runtimes.podman_leftovers import OWNER_ARGUMENT, broken_images, dead_builders

_OURS = {"io.kvcache.stage": "build"}


class Storage:
    """Podman's folder of images, layers and containers, as version 4.3 writes it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self._images: list[dict[str, Any]] = []

    def image(self, identity: str, layer: str, labels: dict[str, str] | None, *, whole: bool) -> None:
        """An image; one that is not `whole` has no manifest, and without `labels` no configuration either."""
        written = [] if labels is None else [f"sha256:{identity}"]
        self._images.append(
            {"id": identity, "layer": layer, "big-data-names": [*written, *(["manifest"] if whole else [])]}
        )
        folder = self.root / "overlay-images" / identity
        folder.mkdir(parents=True)
        if labels is not None:
            name = b64encode(f"sha256:{identity}".encode()).decode()
            (folder / f"={name}").write_text(json.dumps({"config": {"Labels": labels}}))
        (self.root / "overlay-images" / "images.json").write_text(json.dumps(self._images))

    def layers(self, **parents: str) -> None:
        folder = self.root / "overlay-layers"
        folder.mkdir()
        layers = [{"id": layer, "parent": parent} for layer, parent in parents.items()]
        (folder / "layers.json").write_text(json.dumps([{"id": "base"}, *layers]))

    def builder(self, identity: str, owner: Owner | None) -> None:
        folder = self.root / "overlay-containers" / identity / "userdata"
        folder.mkdir(parents=True)
        arguments = None if owner is None else {OWNER_ARGUMENT: str(owner)}
        (folder / "buildah.json").write_text(json.dumps({"Args": arguments}))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@pytest.fixture
def dead() -> Owner:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Owner(os.uname().nodename, process.pid, 1.0)


def test_builders_of_dead_owners_are_found_and_no_others(storage: Storage, dead: Owner) -> None:
    storage.builder("of-the-dead", dead)
    storage.builder("of-this-process", Owner.this_process())
    storage.builder("of-somebody-else", None)
    assert list(dead_builders(storage.root)) == ["of-the-dead"]


def test_images_of_ours_that_were_not_written_to_the_end_are_found_and_no_others(storage: Storage, dead: Owner) -> None:
    storage.layers(ours="base", next="ours", other="base")
    storage.image("base", "base", {}, whole=True)
    storage.image("whole", "ours", _OURS, whole=True)
    storage.image("without-manifest", "ours", _OURS, whole=False)
    storage.image("without-anything", "next", None, whole=False)
    storage.image("of-somebody-else", "other", {"a": "b"}, whole=False)
    storage.image("of-nobody-known", "other", None, whole=False)
    storage.builder("of-the-dead", dead)
    assert list(broken_images(storage.root)) == ["without-manifest", "without-anything"]


def test_images_that_a_build_is_writing_are_left_alone(storage: Storage) -> None:
    storage.layers(ours="base")
    storage.image("without-manifest", "ours", _OURS, whole=False)
    storage.builder("of-this-process", Owner.this_process())
    assert list(broken_images(storage.root)) == []


def test_a_storage_that_is_not_there_has_no_leftovers(tmp_path: Path) -> None:
    assert list(broken_images(tmp_path / "none")) == list(dead_builders(tmp_path / "none")) == []
