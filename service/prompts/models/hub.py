"""Finds a model's files in the hub cache, or downloads them into it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import disable_progress_bars

from service.prompts.errors import HubUnreachable, ModelNotFound, ModelUnavailable
from service.prompts.models.file_names import (
    CONFIG,
    FILE_PATTERNS,
    MISTRAL_TOKENIZERS,
    MISTRAL_WEIGHTS,
    MODEL_CONFIG,
    TEMPLATE,
    TOKENIZER,
    TOKENIZERS,
)

_LARGEST_FILE = 256 << 20
_ALWAYS_KNOWN = (CONFIG, MODEL_CONFIG, TEMPLATE)
"""Files whose absence is cached, too."""

disable_progress_bars()
# The files are small: plain HTTP obeys our timeouts and needs no second service.
constants.HF_HUB_DISABLE_XET = True
constants.HF_HUB_DISABLE_TELEMETRY = True


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Returns the folder of a model if all its files are in the hub cache; never contacts the hub.

    Raises ModelNotFound for a name that the hub does not allow.
    """
    try:
        known = {file: try_to_load_from_cache(name, file, revision=revision) for file in _ALWAYS_KNOWN}
        folder = _snapshot(name, revision or constants.DEFAULT_REVISION)
    except HFValidationError as error:
        raise ModelNotFound(name, str(error)) from None
    has_tokenizer = any(any(folder.glob(pattern)) for pattern in TOKENIZERS)
    return folder if has_tokenizer and all(found is not None for found in known.values()) else None


def latest_commit(name: str, timeout: float, revision: str | None = None) -> str | None:
    """Returns the commit of a model's revision on the hub; `timeout` is in seconds. Blocks.

    Raises ModelNotFound or ModelUnavailable.
    """
    try:
        return HfApi().model_info(name, revision=revision, timeout=timeout).sha
    except Exception as error:
        raise _explained(name, error, timeout) from error


def fetched_folder(name: str, timeout: float, revision: str | None = None, *, force: bool = False) -> Path:
    """Downloads a model's tokenizer and templates, without weights, and returns their folder. Blocks.

    `timeout` is in seconds per call; `force` replaces cached files. Raises ModelNotFound or ModelUnavailable.
    """
    constants.HF_HUB_DOWNLOAD_TIMEOUT = max(1, round(timeout))
    try:
        return _fetched(name, timeout, revision, force=force)
    except (ModelNotFound, ModelUnavailable):
        raise
    except Exception as error:
        raise _explained(name, error, timeout) from error


def _snapshot(name: str, revision: str) -> Path:
    """The cache's folder of a revision, which may not exist."""
    repository = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))
    try:
        commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    return repository / "snapshots" / commit


def _fetched(name: str, timeout: float, revision: str | None, *, force: bool) -> Path:
    info = HfApi().model_info(name, revision=revision, timeout=timeout, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    patterns = set(FILE_PATTERNS)
    if TOKENIZER in sizes and not any(fnmatch.fnmatchcase(file, MISTRAL_WEIGHTS) for file in sizes):
        patterns -= set(MISTRAL_TOKENIZERS)  # without such weights, engines do not read these files either
    wanted = [file for file in sizes if any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)]
    tokenizers = [file for file in wanted if any(fnmatch.fnmatchcase(file, pattern) for pattern in TOKENIZERS)]
    if not tokenizers:
        raise ModelUnavailable(
            name, f"it has none of {', '.join(TOKENIZERS)} on the hub", "Ask for a model that has one"
        )
    for file in wanted:
        if sizes[file] > _LARGEST_FILE:
            raise ModelUnavailable(name, f"its {file} has {sizes[file]} bytes", "Ask for another model")
    # A tokenizer comes last: if it is cached, so are all other files, even after an interrupted fetch.
    wanted.sort(key=lambda file: file in tokenizers)
    for file in _ALWAYS_KNOWN:
        if file not in wanted:
            _cache_absence(name, file, timeout, revision)
    paths = {
        file: Path(hf_hub_download(name, file, revision=revision, etag_timeout=timeout, force_download=force))
        for file in wanted
    }
    folder = paths[tokenizers[0]].parent
    if any(path != folder / file for file, path in paths.items()):
        raise ModelUnavailable(name, "it changed on the hub while it was fetched", "Try again")
    return folder


def _cache_absence(name: str, file: str, timeout: float, revision: str | None) -> None:
    """Records in the cache that the file does not exist, so that the next start does not ask again."""
    try:
        hf_hub_download(name, file, revision=revision, etag_timeout=timeout)
    except EntryNotFoundError:
        return


def _explained(name: str, error: Exception, timeout: float) -> ModelNotFound | ModelUnavailable:
    """The error for the operator: the problem and the remedy."""
    causes = [error, *_causes(error)]
    response = next((cause.response for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    status = response.status_code if response is not None else None
    if isinstance(error, HFValidationError):
        return ModelNotFound(name, str(error))
    if (special := _of_repository(name, causes)) is not None:
        return special
    unknown = status == 401 or any(isinstance(cause, RepositoryNotFoundError) for cause in causes)
    # Without a token, the hub also answers 401 for an unknown model.
    if unknown and not (status == 401 and get_token()):
        return ModelNotFound(name, f"the hub has no model of that name{'' if get_token() else ', or needs HF_TOKEN'}")
    mount = f"put its files into MODELS_DIR/{name}/"
    if status is not None:
        reason, remedy = _BY_STATUS.get(status, (f"the hub has a problem (HTTP {status})", "Try again later"))
        if status == _TOO_MANY_REQUESTS:
            return HubUnreachable(name, reason, f"{remedy}, or {mount}")
    elif any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        reason, remedy = "it is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it", "Unset it"
    else:
        reason, remedy = _without_answer(causes, timeout)
        if not _kinds(causes).isdisjoint(_UNREACHABLE):
            return HubUnreachable(name, reason, f"{remedy}, or {mount}")
    return ModelUnavailable(name, reason, f"{remedy}, or {mount}")


def _of_repository(name: str, causes: list[BaseException]) -> ModelUnavailable | None:
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return ModelUnavailable(name, "the hub does not have its revision", "Set REVISION to one that is there")
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return ModelUnavailable(name, *_gated(name))
    return None


_TOO_MANY_REQUESTS = 429
_BY_STATUS = {
    401: ("the hub refuses the token (401)", "Set HF_TOKEN to one that is valid"),
    403: ("the hub forbids it (403)", "Set HF_TOKEN to one that may read this model"),
    _TOO_MANY_REQUESTS: ("the hub asks for fewer requests (429)", "Wait, set HF_TOKEN"),
}


_UNREACHABLE = ("ConnectError", "TimeoutException")


def _gated(name: str) -> tuple[str, str]:
    page = f"{constants.ENDPOINT}/{name}"
    if get_token() is None:
        return "its owner asks for consent, and no token is set", f"Accept the conditions at {page}, and set HF_TOKEN"
    return "its owner has not admitted the account of the token", f"Accept the conditions at {page} with that account"


def _without_answer(causes: list[BaseException], timeout: float) -> tuple[str, str]:
    kinds = _kinds(causes)
    if "TimeoutException" in kinds:
        return f"the hub did not answer within {timeout:g} s", "Try again"
    if "TransportError" in kinds:
        return (
            f"the hub at {constants.ENDPOINT} cannot be reached ({causes[-1]})",
            "Repair the network, set HF_ENDPOINT",
        )
    if isinstance(causes[0], OSError) and causes[0].errno is not None:
        return f"the hub's cache cannot be used ({causes[0]})", "Let HF_HOME be a folder to write to"
    reason = f"{constants.ENDPOINT} does not answer as a hub does ({type(causes[0]).__name__}: {causes[0]})"
    return reason, "Set HF_ENDPOINT to a hub"


def _kinds(causes: list[BaseException]) -> set[str]:
    # By class name, since the hub client changed its HTTP library between releases.
    return {kind.__name__ for cause in causes for kind in type(cause).__mro__}


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield cause
        yield from _causes(cause)
