"""`kvcache doctor` against a real engine: as vLLM starts by default, and as the doctor says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.command import Commands, free_port
from tests.real_vllm.conftest import StartEngine


def test_the_doctor_finds_what_a_plain_vllm_lacks_and_its_command_line_mends_it(
    engine: StartEngine, tmp_path: Path
) -> None:
    plain = engine("granite", "m", "--kv-events-config", "{}", "--no-enable-prompt-tokens-details")
    kvcache = Commands(tmp_path)
    doctor = ("doctor", "--runtime", "process", "--port", str(free_port()), "--pod")
    found = kvcache.run(*doctor, f"http://{plain.pod}")
    assert found.code == 1, found.output
    assert f"problem  events of {plain.pod}: it publishes none" in found.output
    assert f"warning  reuse of {plain.pod}: its usage does not tell cached_tokens" in found.output
    shown = re.search(rf"command line of {plain.pod}: vllm serve (.*)", found.output)
    assert shown is not None, found.output
    plain.stop()

    events = plain.port + 100  # 5557 may be another's here
    _, *options = shlex.split(shown[1].replace("*:5557", f"*:{events}").replace("*:5558", f"*:{plain.port + 200}"))
    right = engine("granite", "m", *options, port=plain.port)
    found = kvcache.run(*doctor, f"http://{right.pod}")
    assert f"ok       events of {right.pod} at tcp://127.0.0.1:{events}" in found.output
    assert f"ok       reuse of {right.pod}: " in found.output
    assert "command line" not in found.output
