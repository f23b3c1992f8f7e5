"""The commands ``import`` and ``export``: one layout to the other, or a run to either, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from janus_train.errors import UserError
from janus_train.files import read_json_object
from janus_train.interop import official_config
from janus_train.interop.card import model_card
from janus_train.interop.hub import local_folder
from janus_train.interop.model_folder import ModelFolder, open_folder
from janus_train.interop.write import check_target, user_errors_on_write, write_official, write_transformers

ExportFormat = Literal["hf", "official"]


def import_official(source: str, target: Path) -> None:
    """An official checkpoint (a folder, or a hub id) to transformers' layout. Raises `UserError`; leaves nothing half."""
    check_target(target)
    found = open_folder(local_folder(source, "import "))
    if found.layout != "official":
        raise UserError(f"{found.path} is in transformers' layout already: there is nothing to import")
    _write(found, "hf", target, None)


def export_model(source: str, target: Path, form: ExportFormat) -> list[str]:
    """A run's result or a model's folder to ``form``. Returns what of it the official code cannot build, if that is asked."""
    check_target(target)
    path = local_folder(source, "export ")
    found = open_folder(path)
    _write(found, form, target, _manifest(path))
    return official_config.not_buildable(found.config) if form == "official" else []


def _write(found: ModelFolder, form: ExportFormat, target: Path, manifest: dict[str, Any] | None) -> None:
    found.check_complete()
    try:
        card = model_card(found.config, manifest, form)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{found.path}: the manifest.json of its run does not say what was trained") from None
    with user_errors_on_write(target):
        if form == "hf":
            write_transformers(
                target,
                found.config,
                found.tensors(),
                found.tokenizer,
                found.system_prompt,
                found.generation_config,
                found.extras(),
                card,
            )
        else:
            write_official(target, found.config, found.tensors(), found.tokenizer, found.extras(), card)


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of the run that ``path`` is, or in whose ``final/`` it lies; None if there is none."""
    for folder in (path, path.parent if path.name == "final" else path):
        if (folder / "manifest.json").is_file():
            return read_json_object(folder / "manifest.json")
    return None
