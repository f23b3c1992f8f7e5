"""Uploads a model's folder to a model repository of the hub.

The token is huggingface_hub's: HF_TOKEN, or what ``hf auth login`` saved. HF_ENDPOINT names another hub. With hf_xet
installed, huggingface_hub uploads large files through Xet, and what an interrupted upload has sent is not sent again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from janus_train.errors import UserError, one_line
from janus_train.interop.tensors import EXTRAS

REPLACED = ["model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors", EXTRAS]
"""Files of an earlier upload that are deleted if the new one does not have them: loaders would take their weights."""

_PULL_REQUEST = "refs/"
"""How a revision begins that is no branch and cannot be created."""


@dataclass(frozen=True)
class HubTarget:
    """Where a model is uploaded to: ``OWNER/NAME``, on a branch, in one commit."""

    repository: str
    private: bool = False
    """Only for a repository that does not exist yet; the hub ignores it for others."""
    revision: str | None = None
    """A branch, created if there is none; None: the default one."""
    message: str = "Upload a model with janus_train"

    @property
    def option(self) -> str:
        return f"--push-to-hub {self.repository}"

    @property
    def arguments(self) -> list[str]:
        """The options of ``janus-train export`` that name this target."""
        words = ["--push-to-hub", self.repository, *(["--private"] if self.private else [])]
        words += ["--revision", self.revision] if self.revision else []
        return words + (["--commit-message", self.message] if self.message != HubTarget.message else [])


def check_access(target: HubTarget) -> None:
    """Raises `UserError` if the name is impossible, or the hub cannot be reached or does not accept the token.

    An export takes a while; this is known before.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(target.repository)
    except HFValidationError:
        raise UserError(f"{target.option}: a repository is named OWNER/NAME, without the hub's address") from None
    if target.repository.count("/") != 1:
        raise UserError(f"{target.option}: a repository is named OWNER/NAME")
    if not target.message.strip():
        raise UserError("--commit-message is empty")
    with _user_errors(target):
        if get_token() is None:
            raise UserError(f"{target.option}: there is no token: run hf auth login, or set HF_TOKEN")
        HfApi().whoami()


def push(folder: Path, target: HubTarget) -> str:
    """Uploads all files in ``folder``; creates the repository if needed. Returns the address of the commit.

    Raises `UserError`. What is on the hub then is what was there before.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi()
    with _user_errors(target):
        api.create_repo(target.repository, private=target.private or None, exist_ok=True)
        if target.revision and not target.revision.startswith(_PULL_REQUEST):
            api.create_branch(target.repository, branch=target.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=target.repository,
            folder_path=folder,
            revision=target.revision,
            commit_message=target.message,
            delete_patterns=REPLACED,
        )
    return str(commit.commit_url)


@contextmanager
def _user_errors(target: HubTarget) -> Iterator[None]:
    """Turns what a request can fail with into a `UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{target.option}: {_problem(error, target)}") from None


def _problem(error: Exception, target: HubTarget) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids uploads: unset it"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return (
            "the hub does not accept the token (401): log in again with hf auth login, or set HF_TOKEN to a valid one"
        )
    if status == 403:
        owner = target.repository.split("/")[0]
        return f"the token may not write there (403): it needs the permission to write to {owner}'s repositories"
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no {target.revision}"
    if isinstance(error, RepositoryNotFoundError):
        return _what_it_is(target.repository)
    if status is not None:
        return f"the hub answered with an error ({one_line(error, 300)})"
    if isinstance(error, HTTPError):
        return f"the hub at {constants.ENDPOINT} cannot be reached ({one_line(error, 200)})"
    if "xet" in str(error).lower():
        return f"the upload through Xet failed ({one_line(error, 300)}); HF_HUB_DISABLE_XET=1 uploads without it"
    return f"the upload failed ({one_line(error.__cause__ or error, 300)})"


def _what_it_is(repository: str) -> str:
    """Why there is no such model repository although it was just to be created."""
    from huggingface_hub import HfApi

    for kind in ("dataset", "space"):
        try:
            HfApi().repo_info(repository, repo_type=kind)
        except Exception:  # this one it is not, or the hub does not say
            continue
        return f"this is a {kind} on the hub, not a model: choose another name"
    return "the hub has no such model repository and did not create one: choose another name"
