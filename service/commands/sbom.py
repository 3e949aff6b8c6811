"""Prints what this installation or image is made of, as a CycloneDX bill of materials in JSON: the packages of Python
and, in an image of Debian, those of dpkg.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from service.commands.command_line import parser

_DPKG = Path("/var/lib/dpkg/status")
_OS_RELEASE = Path("/etc/os-release")


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Returns the exit code."""
    parser("sbom", __doc__).parse_args(arguments)
    print(json.dumps(bill_of_materials(), indent=2))  # noqa: T201
    return 0


def bill_of_materials(dpkg: Path = _DPKG, os_release: Path = _OS_RELEASE) -> dict[str, Any]:
    """A CycloneDX 1.5 document."""
    python = {
        "type": "platform",
        "name": "python",
        "version": platform.python_version(),
        "purl": f"pkg:generic/python@{platform.python_version()}",
    }
    components = [python, *_of_python(), *_of_dpkg(dpkg, os_release)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "kvcache", "bom-ref": "kvcache"}},
        "components": [{**component, "bom-ref": component["purl"]} for component in components],
    }


def _of_python() -> Iterator[dict[str, Any]]:
    found = {(one.name.lower().replace("_", "-"), one.version): one for one in metadata.distributions(path=sys.path)}
    for (name, version), distribution in sorted(found.items()):
        if name == "kvcache":
            continue
        about = distribution.metadata.json
        license_name = (
            str(about.get("license_expression") or about.get("license") or "").strip().partition("\n")[0][:200]
        )
        yield {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            **({"licenses": [{"license": {"name": license_name}}]} if license_name else {}),
        }


def _of_dpkg(status: Path, os_release: Path) -> Iterator[dict[str, Any]]:
    if not status.exists():
        return
    release = dict(_assignments(os_release))
    distribution = release.get("ID", "debian")
    tag = f"{distribution}-{release.get('VERSION_ID', 'unknown')}"
    for paragraph in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status", "").endswith(" installed") and "Version" in fields:
            name, version = fields["Package"], fields["Version"]
            where = f"arch={fields.get('Architecture', 'all')}&distro={tag}"
            purl = f"pkg:deb/{distribution}/{quote(name)}@{quote(version)}?{where}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def _assignments(file: Path) -> Iterator[tuple[str, str]]:
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            name, equals, value = line.partition("=")
            if equals:
                yield name, value.strip('"')
