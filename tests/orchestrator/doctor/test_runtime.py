from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import free_port
from tests.orchestrator.invoked import Invoker


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ((), "holds no model"),
        (("tokenizer.json",), "holds the files of one model"),
        (("name/tokenizer.json",), "have no organization"),
        (("models--org--name/snapshots/abc/tokenizer.json",), "is a cache of the hub"),
    ],
)
def test_a_models_folder_with_a_wrong_layout_is_named(
    invoker: Invoker, tmp_path: Path, places: tuple[str, ...], said: str
) -> None:
    models = tmp_path / "models"
    (models / "org").mkdir(parents=True)
    (models / "org" / "gone").symlink_to("/no/such/folder")
    for place in places:
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        (models / place).write_text("{}")
    options = ("--runtime", "process", "--port", str(free_port()), "--model", "builtin/demo", "--zmq-endpoint", "")
    done = invoker.run("doctor", *options, "--models-dir", str(models))

    assert (
        f"warning  folders: --models-dir: {models}" in done.output
        or "warning  folders: --models-dir: the" in done.output
    )
    assert said in done.output
    assert "lead to nothing: org/gone -> /no/such/folder." in done.output
