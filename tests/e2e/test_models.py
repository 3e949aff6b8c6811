"""Models on this machine's disk, as a container sees them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.e2e.containers import Up
from tests.e2e.http import post

_DEMO = ROOT / "service" / "prompts" / "models" / "builtin" / "demo"


def _hub_cache(folder: Path) -> Path:
    """The built-in model in the layout of the hub's cache, where two equal files are one blob."""
    repository = folder / "models--hub--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copytree(_DEMO, repository / "blobs")
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(os.path.relpath(blob, snapshot))
        (snapshot / f"copy-{blob.name}").symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_models_are_found_however_they_are_linked(make_up: Callable[..., Up], tmp_path: Path) -> None:
    models, disk = tmp_path / "models", tmp_path / "disk"
    shutil.copytree(_DEMO, models / "plain" / "model")
    shutil.copytree(_DEMO, disk / "model")
    (models / "hub").mkdir()
    (models / "hub" / "model").symlink_to(_hub_cache(tmp_path / "cache"))
    (models / "disk").symlink_to(disk)
    tmp_path.chmod(0o755)

    up = make_up()
    done = up.start("-d", "--models-dir", str(models)).finish(400)
    assert done.code == 0, done.output
    assert "models that are added later need another `kvcache up`" in done.output

    for name in ("plain/model", "hub/model", "disk/model"):
        answer = post(f"{up.url}/score_completions", {"model": name, "messages": [{"role": "user", "content": "Hi"}]})
        assert answer["model"] == name
    mounts = [mount for mount in up.runtime.inspect(up.name)["Mounts"] if mount["Destination"].startswith("/models")]
    assert not any(mount["RW"] for mount in mounts)
    assert json.dumps(mounts).count(str(tmp_path / "cache")) == 2 * len(list(_DEMO.iterdir()))
