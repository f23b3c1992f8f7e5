"""Finds a model's folder: a path, or a hub id that huggingface_hub fetches into its own cache.

Its environment variables apply: HF_HUB_OFFLINE uses the cache only, HF_HOME sets the cache's folder, HF_TOKEN gives access
to gated models. Only weights, configuration and tokenizer are fetched, ``.bin`` weights only where there are no safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from janus_train.errors import UserError, one_line
from janus_train.interop.other_models import instead_of_file
from janus_train.paths import resolve

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SMALL = ["*.json", "*.jinja"]


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/name`` and no such path exists."""
    return _ID.fullmatch(name) is not None and not resolve(name).exists()


def hint(name: str) -> str:
    """Returns the end of an error message for web addresses, which says what to give instead."""
    return "; a model of the hub is named OWNER/NAME, without the hub's address" if "://" in name else ""


def local_folder(
    name: str,
    prefix: str,
    *,
    weights: bool = True,
    revision: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Returns the folder of ``name``, fetched if it is a hub id; without ``weights`` only the small files.

    ``prefix``: the option that gave the name, such as ``init_from=``, for error messages; ``revision``: a branch, tag or
    commit of the hub's model, None its newest. ``check`` gets the folder with the small files of a hub's model, and raises
    `UserError` before gigabytes of another model are fetched. Raises `UserError` if there is neither such a folder nor such
    a model.
    """
    if not is_hub_id(name):
        path = resolve(name)
        if path.is_file():
            raise UserError(f"{prefix}{name} {instead_of_file(path)}")
        if not path.is_dir():
            raise UserError(f"{prefix}{name}: there is no such folder{hint(name)}")
        return path
    if not weights:
        return _fetch(name, prefix, SMALL, revision)
    if check is not None:
        check(_fetch(name, prefix, SMALL, revision))
    folder = _fetch(name, prefix, [*SMALL, "*.safetensors"], revision)
    return folder if any(folder.glob("*.safetensors")) else _fetch(name, prefix, [*SMALL, "*.bin"], revision)


def _fetch(repository: str, prefix: str, patterns: list[str], revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    message_start = f"{prefix}{repository}: there is no such folder, and"
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, revision=revision))
    except GatedRepoError:
        raise UserError(
            f"{prefix}{repository}: the hub requires its terms to be accepted: accept them on the model's page and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"{message_start} the hub has no such model (or it is private: set HF_TOKEN)") from None
    except HFValidationError:
        raise UserError(f"{message_start} it is not a hub id either") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise UserError(
            f"{message_start} {reason} and the cache ({constants.HF_HUB_CACHE}) does not have the model"
        ) from None
    except Exception as error:  # any other failure of a network request
        raise UserError(f"{message_start} the hub could not be queried: {one_line(error, 200)}") from None
