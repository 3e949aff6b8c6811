"""`kvcache parity URL`, as a process of its own, against simulated engines."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from service.contract.compared import read_compared
from tests.conftest import BUILTIN, ROOT
from tests.service.parity.conftest import StartEngine, make_model, start_engine

__all__ = ["make_model", "start_engine"]

SHOUTING = "{% for message in messages %}<{{ message.role | upper }}>{{ message.content }}{% endfor %}"


async def parity(*arguments: str) -> tuple[int | None, str]:
    """Exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "parity", *arguments), cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    output, errors = await process.communicate()
    return process.returncode, (output + errors).decode()


async def test_equal_tokens_exit_with_0(start_engine: StartEngine) -> None:
    code, output = await parity((await start_engine(served_models=["alias"])).url)
    assert code == 0, output
    assert "alias (root builtin/demo): equal" in output
    assert "Nothing needs to be set" in output


async def test_different_tokens_exit_with_1_and_the_first_difference(start_engine: StartEngine) -> None:
    engine = await start_engine(SHOUTING, served_models=["alias"])
    code, output = await parity(engine.url, "--files", str(BUILTIN))
    assert code == 1, output
    assert "'hello' differs from token" in output
    assert "<USER>" in output
    assert f"MODEL_ALIASES=alias={BUILTIN}" in output


async def test_what_is_not_known_exits_with_2_and_the_remedy(start_engine: StartEngine, tmp_path: Path) -> None:
    engine = await start_engine(served_models=["alias"])
    code, output = await parity(engine.url, "--files", "a/b/c", "--json")
    assert code == 2, output
    (compared,) = read_compared(output)
    assert (compared.model, compared.verdict) == ("alias", "unknown")
    assert "MODEL_ALIASES" in (compared.remedy or "")
    assert json.loads(output)["url"] == engine.url
    for wrong in (("http://127.0.0.1:1",), (engine.url, "--model", "other")):
        code, output = await parity(*wrong)
        assert code == 2
        assert output.startswith("parity: ")
