from __future__ import annotations

from pathlib import Path

from tests.command import Commands


def test_what_the_service_lacks_is_named_with_the_command_that_installs_it(kvcache: Commands, tmp_path: Path) -> None:
    described = tmp_path / "installed" / "kvcache-9.dist-info"
    described.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.4",
        "Name: kvcache",
        "Version: 9",
        "Requires-Dist: kv-no-such-host-package",
        "Requires-Dist: aiohttp>=3; extra == 'service'",
        "Requires-Dist: kv-no-such-package>=1; extra == 'service'",
        "Requires-Dist: kv-no-such-test-package; extra == 'dev'",
    ]
    (described / "METADATA").write_text("\n".join(lines) + "\n")
    done = kvcache.run("up", "--runtime", "process", environment={"PYTHONPATH": str(described.parent)})

    assert done.code == 1
    what, remedy = done.output.splitlines()
    assert what == "Error: The service cannot run in this Python: kv-no-such-package not installed."
    assert remedy.endswith(" -m pip install 'kvcache[service]'")
