from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from service.commands import run_tool
from service.commands.sbom import bill_of_materials


def test_the_bill_names_every_package_of_python_with_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool("sbom", [], {}) == 0
    bill = json.loads(capsys.readouterr().out)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    purls = [component["purl"] for component in bill["components"]]
    assert len(purls) == len(set(purls)) == len({component["bom-ref"] for component in bill["components"]})
    for name in ("aiohttp", "pyzmq", "tokenizers"):
        assert f"pkg:pypi/{name}@{metadata.version(name)}" in purls


def test_installed_packages_of_dpkg_are_named_with_their_distribution(tmp_path: Path) -> None:
    status, release = tmp_path / "status", tmp_path / "os-release"
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u9\n"
        "Description: GNU C Library\n more: of it\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
    )
    release.write_text('ID=debian\nVERSION_ID="12"\n')
    purls = [one["purl"] for one in bill_of_materials(status, release)["components"] if "pkg:deb" in one["purl"]]
    assert purls == ["pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64&distro=debian-12"]
