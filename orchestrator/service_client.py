"""An HTTP client for a running service."""

from __future__ import annotations

import json
import os
from typing import Any

import requests
import urllib3
from urllib3.exceptions import InsecureRequestWarning

from orchestrator.errors import Problem
from orchestrator.health import API_KEY_VARIABLE, key_header, url
from orchestrator.runtimes.base import ADDRESS_LABEL, PORT_LABEL, RuntimeKind, Service
from orchestrator.runtimes.deployed import found_deployed

_ANSWER_SECONDS = 30.0


class ServiceClient:
    """The service at a URL. Methods raise Problem."""

    def __init__(self, url: str, *, verify: bool = True) -> None:
        """Without `verify` any certificate is taken: that of this machine's service names a host, not its address."""
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # never use a proxy between a host and itself
        self._session.headers.update(key_header())
        if not verify:
            self._session.verify = False
            urllib3.disable_warnings(InsecureRequestWarning)
        elif bundle := os.environ.get("SSL_CERT_FILE"):
            self._session.verify = bundle

    def get(self, path: str) -> Any:
        return self._json("GET", path, None)

    def post(self, path: str, body: object) -> Any:
        return self._json("POST", path, body)

    def text(self, path: str) -> str:
        return self._answer("GET", path, None).text

    def _json(self, method: str, path: str, body: object) -> Any:
        try:
            return self._answer(method, path, body).json()
        except json.JSONDecodeError as error:
            raise self._not_kvcache() from error

    def _answer(self, method: str, path: str, body: object) -> requests.Response:
        try:
            response = self._session.request(method, self.url + path, json=body, timeout=_ANSWER_SECONDS)
        except requests.RequestException as error:
            raise Problem(
                f"No service answers at {self.url}.",
                "Start one (kvcache up), or name it: --name NAME, --url http://HOST:PORT",
            ) from error
        if not response.ok:
            try:
                said = response.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                raise self._not_kvcache() from None
            if response.status_code in {401, 403}:
                raise Problem(f"The service refuses: {said}", f"Set {API_KEY_VARIABLE} to a key of its API_KEYS.")
            raise Problem(f"The service refuses: {said}", f"It answered {method} {path} at {self.url}.")
        return response

    def _not_kvcache(self) -> Problem:
        return Problem(f"What answers at {self.url} is not kvcache.", "Name another address: --url http://HOST:PORT")


def find_client(name: str, address: str | None, kind: RuntimeKind | None) -> ServiceClient:
    """The service at an address, else a replica of the named one on any runtime. Raises Problem if none runs."""
    return find_clients(name, address, kind)[0]


def find_clients(name: str, address: str | None, kind: RuntimeKind | None) -> list[ServiceClient]:
    """The service at an address, else the replicas that run of the named one. Raises Problem if none runs."""
    if address is not None:
        return [ServiceClient(address if "://" in address else f"http://{address}")]
    with found_deployed(name, kind) as (_, found):
        if running := [replica for replica in found.replicas if replica.running]:
            return [_of(replica) for replica in running]
    raise Problem(f"The service {name} does not run.", "Start it: kvcache start, or kvcache up")


def _of(service: Service) -> ServiceClient:
    address, port = service.labels.get(ADDRESS_LABEL, "127.0.0.1"), int(service.labels.get(PORT_LABEL, 8080))
    return ServiceClient(url(address, port, tls=service.tls), verify=False)
