"""Certificates of authorities made for one test, by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority whose files are in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        names = ("-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign")  # Python 3.13 insists on it
        _openssl("req", "-x509", *_CURVE, *names, "-out", self.pair.cert, "-keyout", self.pair.key)

    def issue(self, name: str) -> Pair:
        """A certificate for localhost and 127.0.0.1; a second one of a name replaces the first."""
        made = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", *_CURVE, "-subj", f"/CN={name}", "-out", request, "-keyout", made.key)
        signing = ("-CA", self.pair.cert, "-CAkey", self.pair.key, "-CAcreateserial", "-days", "2")
        _openssl("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-out", made.cert)
        return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
