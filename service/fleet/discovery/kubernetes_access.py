"""Where the API of Kubernetes is, and how to be let in: the account of this service's pod, or a kubeconfig file."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Access(msgspec.Struct, frozen=True):
    """`server` is a URL without a trailing slash. The token of `token_file` is read for each request: it is renewed."""

    server: str
    tls: ssl.SSLContext
    token: str | None = None
    token_file: Path | None = None

    def headers(self) -> dict[str, str]:
        """Raises OSError if the token cannot be read."""
        token = self.token_file.read_text(encoding="utf-8").strip() if self.token_file is not None else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


def own_account() -> Access:
    """The account of the pod that this service runs in. Raises ValueError outside of Kubernetes."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = _ACCOUNT / "token"
    if not host or not token.is_file():
        raise ValueError("this is no pod with an account of Kubernetes: kubeconfig= names a file instead")
    tls = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    return Access(f"https://{f'[{host}]' if ':' in host else host}:{port}", tls, token_file=token)


class _Struct(msgspec.Struct, rename="kebab"):
    pass


class _Cluster(_Struct):
    server: str
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False


class _User(_Struct):
    token: str | None = None
    token_file: str | None = msgspec.field(default=None, name="tokenFile")
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None


class _Context(_Struct):
    cluster: str
    user: str | None = None


class _NamedCluster(_Struct):
    name: str
    cluster: _Cluster


class _NamedUser(_Struct):
    name: str
    user: _User | None = None


class _NamedContext(_Struct):
    name: str
    context: _Context


class _Config(_Struct):
    current_context: str
    clusters: list[_NamedCluster]
    contexts: list[_NamedContext]
    users: list[_NamedUser] | None = None


def of_kubeconfig(path: Path) -> Access:
    """The current context of a kubeconfig file: a token or a client certificate, but no program that makes one.

    Raises ValueError or OSError.
    """
    try:
        config = msgspec.yaml.decode(path.read_bytes(), type=_Config)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is no kubeconfig file: {error}") from None
    contexts = {one.name: one.context for one in config.contexts}
    clusters = {one.name: one.cluster for one in config.clusters}
    users = {one.name: one.user for one in config.users or ()}
    try:
        context = contexts[config.current_context]
        cluster, user = clusters[context.cluster], (users[context.user] if context.user else None) or _User()
    except KeyError as error:
        raise ValueError(f"{path} does not define {error}") from None
    token_file = path.parent / user.token_file if user.token_file else None
    return Access(cluster.server.rstrip("/"), _tls(path.parent, cluster, user), user.token, token_file)


def _tls(folder: Path, cluster: _Cluster, user: _User) -> ssl.SSLContext:
    authority = _content(folder, cluster.certificate_authority, cluster.certificate_authority_data)
    tls = ssl.create_default_context(cadata=authority.decode("ascii") if authority else None)
    if cluster.insecure_skip_tls_verify:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    certificate = _content(folder, user.client_certificate, user.client_certificate_data)
    key = _content(folder, user.client_key, user.client_key_data)
    if certificate and key:
        with TemporaryDirectory() as made:  # ssl takes them from a file only
            file = Path(made) / "client.pem"
            file.touch(mode=0o600)
            file.write_bytes(certificate + b"\n" + key)
            tls.load_cert_chain(file)
    return tls


def _content(folder: Path, name: str | None, data: str | None) -> bytes | None:
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the kubeconfig file has data that is not in base64: {error}") from None
    return (folder / name).read_bytes() if name else None
