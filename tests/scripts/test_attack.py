from __future__ import annotations

import json
import subprocess
import sys

from tests.tries import only_thorough


@only_thorough
def test_an_attack_shows_what_a_good_client_got() -> None:
    command = (sys.executable, "-m", "scripts.attack", "--json", "--seconds", "0.5", "--only", "bodies of one byte")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["survived"]
    assert result["client"]["answered"] > 0
    assert result["client"]["rejected"] == 0
