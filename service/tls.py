"""TLS of the HTTP listener: the certificate, its key, and the authorities of client certificates, as files."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from service.contract.settings import Settings

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


class TlsError(Exception):
    """The files cannot be used; the text names the variable and the reason."""


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: the certificate with its chain, its key (which the certificate's file may hold), and client CAs."""

    cert: Path
    key: Path | None = None
    client_ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> TlsFiles | None:
        """The files of the settings; None without TLS. Raises TlsError for a key or authorities without certificate."""
        if settings.tls_cert is not None:
            return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        for name, path in (("TLS_KEY", settings.tls_key), ("TLS_CLIENT_CA", settings.tls_client_ca)):
            if path is not None:
                raise TlsError(f"{name}={path} needs TLS_CERT, the certificate that the service presents")
        return None

    def context(self) -> ssl.SSLContext:
        """A context of TLS 1.2 or newer, made from the files as they are. Raises TlsError.

        A client may come without a certificate, and is then answered only what needs no permission, as a health check
        (api/client_certificates.py). A certificate of an unknown authority ends the handshake.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # A password, so that an encrypted key is an error and not a question on the terminal.
            context.load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as error:
            key = f", TLS_KEY={self.key}" if self.key else ""
            raise TlsError(f"TLS_CERT={self.cert}{key}: {_reason(error)}") from error
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise TlsError(f"TLS_CLIENT_CA={self.client_ca}: {_reason(error)}") from error
        return context

    def stamp(self) -> Stamp:
        """Changes when one of the files changes. Raises OSError if one is missing."""
        statuses = [path.stat() for path in self._paths]
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in statuses)

    @property
    def _paths(self) -> Sequence[Path]:
        return [path for path in (self.cert, self.key, self.client_ca) if path is not None]


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a certificate and key in PEM that fit each other ({error.reason or error})"
    return str(getattr(error, "strerror", None) or error)
