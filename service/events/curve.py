"""Keys of CURVE, ZeroMQ's encryption (RFC 26), in files as `zmq.auth.create_certificates` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import zmq

_Z85_LENGTH = 40
MAX_KEYS = 10_000
"""Maximum files of keys that are read from a folder."""


Unusable: TypeAlias = Callable[[Exception], None]


class KeyPair(NamedTuple):
    """A public and a secret key, in Z85."""

    public: bytes
    secret: bytes

    @classmethod
    def fresh(cls) -> KeyPair:
        return cls(*zmq.curve_keypair())

    @classmethod
    def read(cls, file: Path) -> KeyPair:
        """Reads a certificate with its secret key, or a secret key alone. Raises OSError or ValueError."""
        if (secret := _alone(file)) is not None:
            return cls(zmq.curve_public(secret), secret)
        public, secret = _certificate(file)
        if secret is None:
            raise ValueError(f"{file} holds no secret key")
        return cls(public, secret)


def read_public(file: Path) -> bytes:
    """The public key of a certificate, or a public key alone. Raises OSError or ValueError."""
    alone = _alone(file)
    return _certificate(file)[0] if alone is None else alone


def read_publics(path: Path, unusable: Unusable) -> frozenset[bytes]:
    """The public key of a file, or those of the `*.key` files of a folder.

    Raises OSError or ValueError; for a file of a folder, calls `unusable` instead.
    """
    if not path.is_dir():
        return frozenset({read_public(path)})
    found = set()
    for file in sorted(path.glob("*.key"))[:MAX_KEYS]:
        try:
            found.add(read_public(file))
        except (OSError, ValueError) as error:
            unusable(error)
    return frozenset(found)


def _alone(file: Path) -> bytes | None:
    text = file.read_bytes()[: 1 << 16].strip()
    if len(text) != _Z85_LENGTH or b"\n" in text:
        return None
    return text


def _certificate(file: Path) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate  # noqa: PLC0415 - most sockets are not encrypted

    try:
        return load_certificate(file)
    except ValueError:
        raise ValueError(f"{file} holds no CURVE key, of 40 characters or as a ZeroMQ certificate") from None
