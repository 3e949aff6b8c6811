"""Checks that the default model is on disk or can be fetched, and that the hub accepts the token."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from orchestrator.doctor.finding import Finding, ok, warning
from orchestrator.launch import Launch

_ANSWER_SECONDS = 5.0
_WITHOUT_HUB = "Give its files with --models-dir DIR (DIR/<org>/<name>/tokenizer.json), or try --model builtin/demo."


class _Answer(NamedTuple):
    """A status and a body; or status 0 and the reason for the failure."""

    status: int
    text: str


def check_model(launch: Launch) -> Finding:
    if launch.model_is_of_pods:
        return ok("model", "none is named, so that requests get what the pods serve")
    if launch.model.startswith("builtin/"):
        return ok("model", f"{launch.model} is built in")
    if found := _on_disk(launch):
        return ok("model", f"{launch.model} is on disk in {found}")
    answer = _ask(launch, f"{launch.model}/resolve/main/tokenizer_config.json", method="HEAD")
    if answer.status in {200, 301, 302, 307, 308}:
        return ok("model", f"{launch.model} can be fetched from {launch.hf_endpoint}")
    return warning("model", *_refusal(launch, answer))


def _refusal(launch: Launch, answer: _Answer) -> tuple[str, str]:
    match answer.status:
        case 0:
            return f"{launch.hf_endpoint} does not answer: {answer.text}", _WITHOUT_HUB
        case 401 | 403:
            return (
                f"{launch.hf_endpoint} does not give {launch.model} (status {answer.status})",
                "Accept its terms on its page there, and set HF_TOKEN to a token of the account that did.",
            )
        case 404:
            return f"{launch.hf_endpoint} has no {launch.model}", f"Check --model. {_WITHOUT_HUB}"
    return f"{launch.hf_endpoint} answers with status {answer.status}", _WITHOUT_HUB


def check_token(launch: Launch) -> Finding:
    if launch.token is None:
        return ok("token", "none is set; models that need no account can be fetched")
    answer = _ask(launch, "api/whoami-v2")
    match answer.status:
        case 200:
            return ok("token", f"is {_account(answer.text)}'s")
        case 401 | 403:
            return warning(
                "token",
                f"{launch.hf_endpoint} does not accept it, and then refuses even models that need none",
                "Set HF_TOKEN to one of https://huggingface.co/settings/tokens, or unset it.",
            )
    return warning("token", f"cannot be checked: {answer.text or f'status {answer.status}'}", "See the model's line.")


def _on_disk(launch: Launch) -> Path | None:
    places = []
    if launch.models_dir:
        places.append(launch.models_dir / launch.model)
    if launch.hf_cache:
        places += (launch.hf_cache / "hub" / f"models--{launch.model.replace('/', '--')}").glob("snapshots/*")
    return next((place for place in places if (place / "tokenizer.json").is_file()), None)


class _NoRedirects(HTTPRedirectHandler):
    """A redirect to the file's location is a sufficient answer."""

    def redirect_request(self, *_: object) -> None:
        return None


def _ask(launch: Launch, path: str, method: str = "GET") -> _Answer:
    trust = ssl.create_default_context()
    if launch.ca_bundle:
        trust.load_verify_locations(launch.ca_bundle)
    request = Request(f"{launch.hf_endpoint.rstrip('/')}/{path}", method=method)  # noqa: S310 - the operator's own URL
    if launch.token:
        request.add_unredirected_header("Authorization", f"Bearer {launch.token}")
    try:
        with build_opener(HTTPSHandler(context=trust), _NoRedirects()).open(request, timeout=_ANSWER_SECONDS) as answer:
            return _Answer(answer.status, answer.read().decode("utf-8", "replace"))
    except HTTPError as error:
        return _Answer(error.code, "")
    except (URLError, OSError, ValueError) as error:
        return _Answer(0, str(getattr(error, "reason", error)))


def _account(body: str) -> str:
    try:
        return str(json.loads(body)["name"])
    except (ValueError, KeyError, TypeError):
        return "somebody"
