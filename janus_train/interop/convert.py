"""The commands ``import`` and ``export``: convert a model between layouts, or a run to either, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from janus_train.errors import UserError
from janus_train.interop import official_fit
from janus_train.interop.card import model_card
from janus_train.interop.model_folder import ModelFolder, open_folder, open_model
from janus_train.interop.run_record import RunRecord, read_run
from janus_train.interop.write import CARD, check_target, user_errors_on_write, write_official, write_transformers

ExportFormat = Literal["hf", "official"]

_LAYOUTS = {"hf": "transformers", "official": "official"}


def import_official(source: str, target: Path) -> None:
    """Converts an official checkpoint (a folder or a hub id) to transformers' layout.

    Raises `UserError`; no partial folder is left then.
    """
    check_target(target)
    folder = open_model(source, "import ")
    if folder.layout != "official":
        raise UserError(f"{folder.path} is in transformers' layout already: there is nothing to import")
    _write(folder, "hf", target, None)


def export_model(source: str, target: Path, form: ExportFormat, license_id: str | None = None) -> list[str]:
    """Converts a run's result or a model's folder to ``form``. Returns the parts that the official code cannot build.

    ``license_id``: the model's licence, for its card.
    """
    check_target(target)
    folder = open_model(source, "export ")
    _write(folder, form, target, read_run(folder.origin), license_id)
    return official_fit.not_buildable(folder.config) if form == "official" else []


def exported_folder(source: str, form: ExportFormat) -> Path | None:
    """Returns the folder ``source`` if it is a whole model in ``form`` with its model card already, else None."""
    path = Path(source)
    if not (path / CARD).is_file():
        return None
    folder = open_folder(path)
    if folder.adapters or folder.path != path or folder.layout != _LAYOUTS[form]:
        return None
    folder.check_complete()
    return path


def _write(
    folder: ModelFolder, form: ExportFormat, target: Path, run: RunRecord | None, license_id: str | None = None
) -> None:
    folder.check_complete()
    card = model_card(folder.config, run, form, license_id)
    with user_errors_on_write(target):
        write = write_transformers if form == "hf" else write_official
        write(
            target,
            folder.config,
            folder.tensors(),
            folder.tokenizer,
            folder.system_prompt,
            folder.generation_config,
            folder.extras(),
            card,
        )
