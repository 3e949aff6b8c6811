"""The part of docs/quickstart.md for a real vLLM on the CPU, as it stands but for ports and the installation."""

from __future__ import annotations

from pathlib import Path

from tests.command import free_port
from tests.conftest import ROOT
from tests.ports import unassigned_port
from tests.quickstart import Shell, blocks


def test_a_real_vllm_on_the_cpu_answers_through_the_service(vllm: Path, tmp_path: Path) -> None:
    engine, port = unassigned_port(), str(free_port())
    for name in ("scripts", "service"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "vllm-cpu").symlink_to(vllm.parent.parent)
    output = Shell(tmp_path).run(
        "\n".join(blocks("A real vLLM on the CPU")),
        replaced={
            "scripts/real_vllm/install vllm-cpu": "test -x vllm-cpu/bin/vllm",
            " 8000 &": f" {engine} > vllm.log 2>&1 &",
            "localhost:8000": f"localhost:{engine}",
            "127.0.0.1:8000": f"127.0.0.1:{engine}",
            "localhost:8080": f"localhost:{port}",
        },
        HTTP_PORT=port,
    )
    assert f"ok       events of 127.0.0.1:{engine} at tcp://127.0.0.1:{engine + 100}" in output
    assert '"object":"chat.completion"' in output
