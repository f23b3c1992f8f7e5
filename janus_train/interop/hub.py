"""Where a model's folder is: a path, or a hub id that huggingface_hub fetches into its own cache.

Its environment counts: HF_HUB_OFFLINE takes what the cache has, HF_HOME says where the cache is, HF_TOKEN opens gated
models. Only weights, configuration and tokenizer are fetched, ``.bin`` weights only where there are no safetensors.
"""

from __future__ import annotations

import re
from pathlib import Path

from janus_train.errors import UserError, one_line
from janus_train.paths import resolve

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SMALL = ["*.json", "*.jinja"]


def is_hub_id(name: str) -> bool:
    """``owner/name``, unless such a path is there."""
    return _ID.fullmatch(name) is not None and not resolve(name).exists()


def hint(name: str) -> str:
    """The end of an error's line that says what to give in place of a web address."""
    return "; a model of the hub is named OWNER/NAME, without the hub's address" if "://" in name else ""


def local_folder(name: str, what: str, *, weights: bool = True) -> Path:
    """The folder of ``name``, fetched if it is a hub id; without ``weights`` only the small files.

    ``what``: who asks, such as ``init_from=``, for the error's line. Raises `UserError` if there is no such folder and no such model.
    """
    if not is_hub_id(name):
        path = resolve(name)
        if not path.is_dir():
            raise UserError(f"{what}{name}: there is no such folder{hint(name)}")
        return path
    if not weights:
        return _fetch(name, what, SMALL)
    folder = _fetch(name, what, [*SMALL, "*.safetensors"])
    return folder if any(folder.glob("*.safetensors")) else _fetch(name, what, [*SMALL, "*.bin"])


def _fetch(repository: str, what: str, patterns: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    where = f"{what}{repository}: there is no such folder, and"
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except GatedRepoError:
        raise UserError(
            f"{what}{repository}: the hub wants its terms accepted: accept them on the model's page and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"{where} the hub has no such model (or it is private: set HF_TOKEN)") from None
    except HFValidationError:
        raise UserError(f"{where} it is no hub id either") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise UserError(f"{where} {why} and the cache ({constants.HF_HUB_CACHE}) does not have the model") from None
    except Exception as error:  # whatever else goes wrong on the way to a server and back
        raise UserError(f"{where} the hub could not be asked: {one_line(error, 200)}") from None
