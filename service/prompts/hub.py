"""Fetches a model's files from the hub, through the hub's own cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.model_files import FILE_PATTERNS, TOKENIZER


def fetch_model_folder(name: str, timeout: float) -> Path:
    """Gives the folder with the model's tokenizer and templates; raises ModelNotFound or ModelUnavailable. Blocks."""
    for local in (True, False):
        try:
            folder = Path(
                snapshot_download(
                    name, allow_patterns=list(FILE_PATTERNS), etag_timeout=timeout, local_files_only=local
                )
            )
        except GatedRepoError:
            raise ModelUnavailable(
                name, "its owner asks for consent first", "Accept it on the model's page and set HF_TOKEN"
            ) from None
        except RepositoryNotFoundError:
            raise ModelNotFound(name, "the hub has none of that name") from None
        except Exception as error:
            if not local:
                raise ModelUnavailable(
                    name, f"the hub cannot be reached ({type(error).__name__})", "Put its files into MODELS_DIR"
                ) from None
        else:
            if (folder / TOKENIZER).is_file():
                return folder
    raise ModelUnavailable(name, "it has no tokenizer.json", "Choose a model with one")
